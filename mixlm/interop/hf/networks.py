"""The network of mixlm that a config.json of transformers describes; UserError where mixlm has none."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from mixlm.errors import UserError, nearest
from mixlm.interop.hf.architectures import DECODERS, T5_ACTIVATIONS, T5_EPSILON

KINDS = ("t5", "llama", "mixlm")
MODULES = {
    "EncoderDecoder": "t5",
    "Llama": "llama",
    "DecoderOnly": "t5_decoder",
    "LTGBert": "ltg_bert",
    "GPTBert": "gpt_bert",
}
# Fields of transformers' own in the config.json of a network of ours.
THEIRS = (
    "architectures", "attention", "auto_map", "bos_token_id", "dtype", "eos_token_id", "mask_token_id",
    "max_position_embeddings", "model_type", "network", "pad_token_id", "shifted", "tie_word_embeddings",
    "transformers_version", "torch_dtype", "use_cache",
)  # fmt: skip


# Numbers of config.json that a network cannot do without.
COUNTS = {
    "t5": ("d_model", "d_kv", "d_ff", "num_layers", "num_heads", "vocab_size"),
    "llama": ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"),
    "mixlm": ("emb_dim", "head_dim", "mlp_dim", "num_layers", "num_heads", "vocab_size", "max_position_embeddings"),
}


class Described(NamedTuple):
    """The kind of names of the weights, the network's class, its fields, and the tokens that it reads at most."""

    kind: str
    network: str
    fields: dict[str, Any]
    length: int | None


def described(config: Mapping[str, Any], where: str) -> Described:
    """The network that config.json describes; `where` names it in an error."""
    kind = config.get("model_type")
    if kind not in KINDS:
        raise UserError(
            f"{where} describes the architecture {kind!r}, and only {', '.join(KINDS)} are imported."
            f"{nearest(str(kind), KINDS)}"
        )
    for name in COUNTS[kind]:
        if name not in config:
            raise UserError(f"{where} does not say {name!r}, which {kind} has.")
        if type(config[name]) is not int or config[name] < 1:
            raise UserError(f"{where} says {name} = {config[name]!r}, which should be a whole number above 0.")
    return {"t5": _t5, "llama": _llama, "mixlm": _mixlm}[kind](config, where)


def _only(config: Mapping[str, Any], where: str, **wanted: Any) -> None:
    """Raises UserError for a field with another value than the one that the network here computes."""
    for name, value in wanted.items():
        if config.get(name, value) != value:
            raise UserError(f"{where} says {name} = {config[name]!r}, and the network here has {value!r} alone.")


def _t5(config: Mapping[str, Any], where: str) -> Described:
    _only(config, where, layer_norm_epsilon=T5_EPSILON)
    *gated, activation = config.get("feed_forward_proj", "relu").split("-")
    names = {theirs: ours for ours, theirs in T5_ACTIVATIONS.items()} | ({"gelu": "gelu"} if gated else {})
    if activation not in names or gated not in ([], ["gated"]):
        known = ", ".join([*names, "gated-gelu"])
        raise UserError(f"{where} says feed_forward_proj = {config['feed_forward_proj']!r}, only {known} are imported.")
    layers = config["num_layers"]
    fields = {
        "emb_dim": config["d_model"],
        "num_heads": config["num_heads"],
        "head_dim": config["d_kv"],
        "mlp_dim": config["d_ff"],
        "num_encoder_layers": layers,
        "num_decoder_layers": config.get("num_decoder_layers") or layers,
        "mlp_activations": (names[activation], "linear") if gated else (names[activation],),
        # T5 scales the logits of a tied head, T5 1.1 neither; transformers 5 says so by a field of its own, since there
        # tie_word_embeddings is true of both.
        "logits_via_embedding": config.get("scale_decoder_outputs", config.get("tie_word_embeddings")) is not False,
        "num_buckets": config.get("relative_attention_num_buckets", 32),
        "max_distance": config.get("relative_attention_max_distance", 128),
    }
    return Described("t5", "EncoderDecoder", fields, None)


def _llama(config: Mapping[str, Any], where: str) -> Described:
    heads = config["num_attention_heads"]
    keys = config.get("num_key_value_heads") or heads
    _only(config, where, attention_bias=False, mlp_bias=False, hidden_act="silu")
    if keys != heads:
        raise UserError(f"{where} says num_key_value_heads = {keys}, and the network here has one for each of {heads}.")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise UserError(f"{where} says rope_type = {kind!r}, and the network here has 'default' alone.")
    fields = {
        "emb_dim": config["hidden_size"],
        "num_heads": heads,
        "head_dim": config.get("head_dim") or config["hidden_size"] // heads,
        "mlp_dim": config["intermediate_size"],
        "num_layers": config["num_hidden_layers"],
        "logits_via_embedding": config.get("tie_word_embeddings", False),
        "rope_theta": float(rope.get("rope_theta", config.get("rope_theta", 10000.0))),
        "epsilon": config.get("rms_norm_eps", 1e-6),
        "init_std": config.get("initializer_range", 0.02),
    }
    return Described("llama", "Llama", fields, config.get("max_position_embeddings"))


def _mixlm(config: Mapping[str, Any], where: str) -> Described:
    name = config.get("network")
    if name not in DECODERS:
        raise UserError(f"{where} says network = {name!r}, only {', '.join(DECODERS)}.{nearest(str(name), DECODERS)}")
    fields = {key: value for key, value in config.items() if key not in (*THEIRS, "vocab_size", "dropout_rate")}
    for key in fields:
        if not key.isidentifier():  # it would be more than a name in network.gin
            raise UserError(f"{where} has a field {key!r}, which is no name.")
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    return Described("mixlm", name, fields, config["max_position_embeddings"])


def gin_text(found: Described, vocab_size: int, vocabulary: str, sentinels: int, source: str) -> str:
    """The gin text of the network and its vocabulary, for any recipe before it."""
    module, decoder = MODULES[found.network], found.network != "EncoderDecoder"
    target = f"{module}.{found.network}"
    fields = "\n".join(f"  {name} = {value!r}" for name, value in found.fields.items())
    networks = f'NETWORKS = {{"model": @{target}()}}\n' if decoder else ""
    dropout = "" if found.network == "Llama" else "  dropout_rate = %DROPOUT_RATE\n"
    return f"""\
# The network and the vocabulary of {json.dumps(source)}, for any recipe before it.
from __gin__ import dynamic_registration

from mixlm.models import {module}
from mixlm.models import layer_stack

include 'data/vocabulary.gin'

VOCAB_MODEL = {vocabulary!r}
SENTINELS = {sentinels}
VOCAB_SIZE = {vocab_size}
EMB_DIM = {found.fields["emb_dim"]}
{networks}
{target}:
{fields}
  vocab_size = %VOCAB_SIZE
  dtype = %DTYPE
  execution = @layer_stack.Execution()
{dropout}"""
