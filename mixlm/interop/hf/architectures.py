"""The architecture of transformers that a network of mixlm is, with the fields of its config.json; and the way back."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mixlm.errors import UserError, nearest
from mixlm.objectives.causal import Causal
from mixlm.recipe import Recipe
from mixlm.tokens import TokenIds

# Networks by class, for `mixlm.models` is imported by gin files alone; fields that say how, not what, is computed.
DECODERS = ("Llama", "DecoderOnly", "LTGBert", "GPTBert")
NETWORKS = ("EncoderDecoder", *DECODERS)
NO_FIELDS = ("parent", "name", "execution", "dtype", "init_std", "zero_init")
T5_EPSILON = 1e-6
T5_ACTIVATIONS = {"gelu": "gelu_new", "relu": "relu", "silu": "silu", "tanh": "tanh", "sigmoid": "sigmoid"}
MODELING = "modeling_mixlm"
AUTO_CLASSES = {"AutoModel": "Model", "AutoModelForCausalLM": "ForCausalLM", "AutoModelForMaskedLM": "ForMaskedLM"}


class Architecture(NamedTuple):
    """The kind of names that the weights have ("t5", "llama", "mixlm"), and the content of config.json."""

    kind: str
    config: dict[str, Any]


def architecture_of(recipe: Recipe, network: str = "model") -> Architecture:
    """The architecture of a recipe's network, of transformers itself where it has it.

    Llama without a projection head is `LlamaForCausalLM` where every objective that trains it is causal; one that is
    also trained to read ahead needs a mask that this class has not. Raises UserError for a network that has none.
    """
    module, tokens = recipe.networks[network], recipe.tokens
    name = type(module).__name__
    if name not in NETWORKS:
        known = ", ".join(NETWORKS)
        raise UserError(
            f"The network {name} has no architecture in transformers, only {known}.{nearest(name, NETWORKS)}"
        )
    values = {each.name: getattr(module, each.name) for each in dataclasses.fields(module)}
    if name == "EncoderDecoder":
        return Architecture("t5", t5_config(values, tokens))
    length = max(recipe.lengths.values())
    causal = all(isinstance(objective, Causal) for objective in recipe.curriculum.distinct)
    if name == "Llama" and causal and not values["projection_head"] and not values["emb_dim"] % values["num_heads"]:
        return Architecture("llama", llama_config(values, tokens, length))
    shifted = all(getattr(objective, "shifted", True) for objective in _parts(recipe))
    return Architecture("mixlm", mixlm_config(name, values, tokens, length, shifted))


def _parts(recipe: Recipe) -> list[Any]:
    """The objectives that are trained, those inside of mixtures each on its own."""
    found: list[Any] = []
    for objective in recipe.curriculum.distinct:
        found += getattr(objective, "objectives", (objective,))
    return found


def t5_config(values: Mapping[str, Any], tokens: TokenIds) -> dict[str, Any]:
    """The config.json of `T5ForConditionalGeneration`; UserError where that computes something else."""
    activations = values["mlp_activations"]
    gated = len(activations) == 2 and activations[1] == "linear"
    if activations[0] not in T5_ACTIVATIONS or not (gated or len(activations) == 1):
        raise UserError(f"transformers' T5 has no MLP of {activations}, only one activation, or one and 'linear'.")
    for bidirectional in (True, False):
        _check_buckets(values["num_buckets"], values["max_distance"], bidirectional)
    activation = T5_ACTIVATIONS[activations[0]]
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "bos_token_id": tokens.bos,
        "d_ff": values["mlp_dim"],
        "d_kv": values["head_dim"],
        "d_model": values["emb_dim"],
        "decoder_start_token_id": tokens.bos,
        "dropout_rate": values["dropout_rate"],
        "dtype": "float32",
        "eos_token_id": tokens.eos,
        # T5Config reads the name gated-gelu as the approximation by tanh, which is T5 1.1's.
        "feed_forward_proj": f"gated-{activations[0]}" if gated else activation,
        "initializer_factor": 1.0,
        "is_encoder_decoder": True,
        "layer_norm_epsilon": T5_EPSILON,
        "model_type": "t5",
        "num_decoder_layers": values["num_decoder_layers"],
        "num_heads": values["num_heads"],
        "num_layers": values["num_encoder_layers"],
        "pad_token_id": tokens.pad,
        "relative_attention_max_distance": values["max_distance"],
        "relative_attention_num_buckets": values["num_buckets"],
        "tie_word_embeddings": values["logits_via_embedding"],
        # Its cache has as many layers as the encoder, so a deeper decoder generates without one.
        "use_cache": values["num_decoder_layers"] <= values["num_encoder_layers"],
        "vocab_size": values["vocab_size"],
    }


def _check_buckets(num_buckets: int, max_distance: int, bidirectional: bool) -> None:
    """Raises UserError where T5X's epsilon moves the edge of a bucket, which transformers has not.

    T5's 32 buckets and 128 tokens are the same in both.
    """
    side = num_buckets // 2 if bidirectional else num_buckets
    exact = side // 2
    distance = np.arange(exact, max_distance + 1)
    ratio, width = distance.astype(np.float32) / np.float32(exact), np.float32(np.log(max_distance / exact))
    edges = [(np.log(each) / width * (side - exact)).astype(np.int32) for each in (ratio, ratio + np.finfo("f4").eps)]
    differing = distance[np.minimum(edges[0], side - exact - 1) != np.minimum(edges[1], side - exact - 1)]
    if differing.size:
        raise UserError(
            f"transformers' T5 puts a distance of {differing[0]} into another bucket than T5X and mixlm, with "
            f"num_buckets = {num_buckets} and max_distance = {max_distance}: train with 32 and 128."
        )


def llama_config(values: Mapping[str, Any], tokens: TokenIds, length: int) -> dict[str, Any]:
    """The config.json of `LlamaForCausalLM`; `length` is that of the rows in training."""
    theta = float(values["rope_theta"])
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": tokens.bos,
        "dtype": "float32",
        "eos_token_id": tokens.eos,
        "head_dim": values["head_dim"],
        "hidden_act": "silu",
        "hidden_size": values["emb_dim"],
        "initializer_range": values["init_std"] or 0.02,
        "intermediate_size": values["mlp_dim"],
        "max_position_embeddings": length,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": values["num_heads"],
        "num_hidden_layers": values["num_layers"],
        "num_key_value_heads": values["num_heads"],
        "pad_token_id": tokens.pad,
        "rms_norm_eps": values["epsilon"],
        "rope_parameters": {"rope_theta": theta, "rope_type": "default"},
        "rope_theta": theta,  # transformers before 5
        "tie_word_embeddings": values["logits_via_embedding"],
        "use_cache": True,
        "vocab_size": values["vocab_size"],
    }


def mixlm_config(name: str, values: Mapping[str, Any], tokens: TokenIds, length: int, shifted: bool) -> dict[str, Any]:
    """The config.json of the classes in `modeling_mixlm.py`: the network's own fields beside transformers'."""
    fields = {key: value for key, value in values.items() if key not in NO_FIELDS}
    config = {
        "architectures": ["MixlmForCausalLM"],
        "attention": "bidirectional",
        "auto_map": {"AutoConfig": f"{MODELING}.MixlmConfig"}
        | {auto: f"{MODELING}.Mixlm{ours}" for auto, ours in AUTO_CLASSES.items()},
        "bos_token_id": tokens.bos,
        "dtype": "float32",
        "eos_token_id": tokens.eos,
        "mask_token_id": tokens.mask,
        "max_position_embeddings": length,
        "model_type": "mixlm",
        "network": name,
        "pad_token_id": tokens.pad,
        "shifted": shifted,
        "tie_word_embeddings": False,  # a tied head reads the embedding by itself
        "use_cache": False,
    }
    return dict(sorted((config | fields).items()))
