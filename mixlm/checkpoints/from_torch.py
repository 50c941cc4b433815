"""Parameter trees from PyTorch weights in safetensors files, by the names of the original networks' state dicts."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mixlm.checkpoints.from_t5x import as_float32, fitted
from mixlm.checkpoints.safetensors import read_safetensors
from mixlm.errors import UserError, nearest

Params = dict[str, Any]
QUERY_KEY_VALUE = ("query", "key", "value")  # the order of the Dual-objective network's three matrices


class Weights:
    """Arrays under torch's names, each to be put under one of ours; what is never asked for is unexpected."""

    def __init__(self, weights: Mapping[str, Any], layer: str):
        self.given = dict(weights)
        self.left = dict(weights)
        self.ours: dict[str, np.ndarray] = {}
        numbers = [int(match[1]) for name in weights if (match := re.match(re.escape(layer) + r"\.(\d{1,9})\.", name))]
        self.layers = range(max(numbers, default=0) + 1)

    def take(self, name: str) -> np.ndarray:
        """The array of this name as float32; raises `UserError` where it is missing."""
        if name not in self.given:
            raise UserError(f"The weight {name!r} is missing.{nearest(name, self.left)}")
        self.left.pop(name, None)
        return as_float32(name, self.given[name])

    def take_halves(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The two halves of an array that torch keeps in one; raises `UserError` where it has none."""
        array = self.take(name)
        if array.ndim == 0 or len(array) % 2:
            raise UserError(f"The weight {name!r} is of shape {array.shape}, and holds no two arrays.")
        return array[: len(array) // 2], array[len(array) // 2 :]

    def vectors(self, names: Mapping[str, str]) -> None:
        """Puts each of torch's names (the values) under ours (the keys) as it is: gains, biases, embeddings."""
        self.ours |= {ours: self.take(name) for ours, name in names.items()}

    def kernels(self, names: Mapping[str, str]) -> None:
        """Puts each matrix under our name, transposed, for torch keeps it as [out, in]."""
        self.ours |= {ours: self.take(name).T for ours, name in names.items()}

    def halves(self, name: str, first: str, second: str) -> None:
        """Puts the two halves of one of torch's biased linear maps under our names."""
        for kind, part in (("kernel", "weight"), ("bias", "bias")):
            halves = self.take_halves(f"{name}.{part}")
            self.ours |= {f"{ours}/{kind}": half.T for ours, half in zip((first, second), halves)}

    def repeats(self, name: str, of: str) -> bool:
        """True where the array of this name repeats that one, as torch writes tied weights."""
        return np.array_equal(self.take(name), self.take(of))

    def leave(self, pattern: str) -> None:
        """Drops what a network can work out by itself: tables that torch keeps beside the weights."""
        self.left = {name: value for name, value in self.left.items() if not re.fullmatch(pattern, name)}

    def tree(self, template: Any) -> Params:
        """Our tree; raises `UserError` for a weight that nobody took, and for what does not fit the template."""
        for name in self.left:
            raise UserError(f"The weight {name!r} is unexpected: this network has no place for it.")
        return fitted(self.ours, template)


def llama_params(weights: Mapping[str, Any], template: Any = None) -> Params:
    """`Llama`'s float32 tree from a Hugging Face `LlamaForCausalLM`.

    The head is tied where `lm_head.weight` is the embedding or absent. `template` is a parameter tree (or its shapes)
    to check against. Raises `UserError` for the first weight that is missing, unexpected or of another shape.
    """
    found = Weights(weights, "model.layers")
    found.leave(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
    found.vectors({"token_embedder/embedding": "model.embed_tokens.weight", "decoder_norm/scale": "model.norm.weight"})
    for index in found.layers:
        ours, theirs = f"layers_{index}", f"model.layers.{index}"
        names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}
        found.kernels({f"{ours}/self_attention/{a}/kernel": f"{theirs}.self_attn.{b}.weight" for a, b in names.items()})
        names = {"wi_0": "gate_proj", "wi_1": "up_proj", "wo": "down_proj"}
        found.kernels({f"{ours}/mlp/{a}/kernel": f"{theirs}.mlp.{b}.weight" for a, b in names.items()})
        names = {"pre_self_attention_layer_norm": "input_layernorm", "pre_mlp_layer_norm": "post_attention_layernorm"}
        found.vectors({f"{ours}/{a}/scale": f"{theirs}.{b}.weight" for a, b in names.items()})
    if "lm_head.weight" in weights and not found.repeats("lm_head.weight", "model.embed_tokens.weight"):
        found.kernels({"logits_dense/kernel": "lm_head.weight"})
    return found.tree(template)


def dual_params(weights: Mapping[str, Any], template: Any = None) -> Params:
    """`Llama`'s float32 tree, with a projection head, from ltgoslo/dual-language-models.

    The vocabulary's matrix is tied where `classifier.emb2vocab.weight` is the embedding. `template` and errors are as
    in `llama_params`.
    """
    found = Weights(weights, "encoder.layers")
    found.vectors(
        {
            "token_embedder/embedding": "embedding.word_embedding.weight",
            "decoder_norm/scale": "classifier.pre_norm.weight",
            "logits_bias/bias": "classifier.emb2vocab.bias",
        }
    )
    for index in found.layers:
        ours, theirs = f"layers_{index}", f"encoder.layers.{index}"
        names = {f"self_attention/{name}": f"attention.qkv_proj.weights.{i}" for i, name in enumerate(QUERY_KEY_VALUE)}
        # Their up-projection is (linear, gate), and ours activates the first.
        names |= {"mlp/wi_0": "mlp.up_proj.weights.1", "mlp/wi_1": "mlp.up_proj.weights.0"}
        names |= {"self_attention/out": "attention.out_proj.weight", "mlp/wo": "mlp.down_proj.weight"}
        found.kernels({f"{ours}/{a}/kernel": f"{theirs}.{b}" for a, b in names.items()})
        names = {"pre_self_attention_layer_norm": "attention", "pre_mlp_layer_norm": "mlp"}
        found.vectors({f"{ours}/{a}/scale": f"{theirs}.{b}.pre_norm.weight" for a, b in names.items()})
    found.kernels({"projection/kernel": "classifier.projection.weight"})
    if not found.repeats("classifier.emb2vocab.weight", "embedding.word_embedding.weight"):
        found.kernels({"logits_dense/kernel": "classifier.emb2vocab.weight"})
    return found.tree(template)


def ltg_bert_params(weights: Mapping[str, Any], template: Any = None) -> Params:
    """`LTGBert`'s float32 tree from ltgoslo/ltg-bert (its BabyLM model); tables of position indices are left out.

    `template` and errors are as in `llama_params`; the head must be tied to the embedding, as it is there.
    """
    found = Weights(weights, "transformer.layers")
    found.leave(r"transformer\.layers\.\d+\.attention\.position_indices")
    for index in found.layers:
        ours, theirs = f"layers_{index}", f"transformer.layers.{index}"
        attention = f"{ours}/self_attention"
        bert_layer(found, ours, f"{theirs}.attention", f"{theirs}.mlp")
        found.kernels({f"{attention}/value/kernel": f"{theirs}.attention.in_proj_v.weight"})
        norm, post = f"{attention}/post_layer_norm", f"{theirs}.attention.post_layer_norm"
        vectors = {f"{norm}/scale": f"{post}.weight", f"{norm}/bias": f"{post}.bias"}
        found.vectors(vectors | {f"{attention}/value/bias": f"{theirs}.attention.in_proj_v.bias"})
    return bert_tree(found, template)


def gpt_bert_params(weights: Mapping[str, Any], template: Any = None) -> Params:
    """`GPTBert`'s float32 tree from ltgoslo/gpt-bert; `template` and errors are as in `ltg_bert_params`."""
    found = Weights(weights, "transformer.attention_layers")
    found.leave(r"transformer\.attention_layers\.\d+\.position_indices")
    for index in found.layers:
        ours, attention = f"layers_{index}", f"transformer.attention_layers.{index}"
        bert_layer(found, ours, attention, f"transformer.mlp_layers.{index}")
        found.halves(f"{attention}.in_proj_vg", f"{ours}/self_attention/value", f"{ours}/self_attention/gate")
        # Their averages are counted through, those behind attention and those behind the MLPs in turn.
        averages = {f"{name}_average": 2 * index + place for place, name in enumerate(("attention", "mlp"))}
        found.vectors({f"{ours}/{name}/weights": f"transformer.dwa_modules.alphas.{i}" for name, i in averages.items()})
    return bert_tree(found, template)


def bert_layer(found: Weights, ours: str, attention: str, mlp: str) -> None:
    """Layer parameters of LTG-BERT and GPT-BERT alike; the MLP matrix is (linear, gate), and ours gates first."""
    found.halves(f"{attention}.in_proj_qk", f"{ours}/self_attention/query", f"{ours}/self_attention/key")
    found.kernels({f"{ours}/self_attention/out/kernel": f"{attention}.out_proj.weight"})
    found.vectors({f"{ours}/self_attention/out/bias": f"{attention}.out_proj.bias"})
    linear, gate = found.take_halves(f"{mlp}.mlp.1.weight")
    found.ours |= {f"{ours}/mlp/wi_0/kernel": gate.T, f"{ours}/mlp/wi_1/kernel": linear.T}
    found.kernels({f"{ours}/mlp/wo/kernel": f"{mlp}.mlp.4.weight"})


def bert_tree(found: Weights, template: Any) -> Params:
    """The tree of layers that are taken already, with the embeddings and the tied head of both."""
    embedding, head = "embedding.word_embedding.weight", "classifier.nonlinearity"
    names = {
        "token_embedder/embedding": embedding,
        "relative_embedding": "embedding.relative_embedding",
        "relative_layer_norm/scale": "embedding.relative_layer_norm.weight",
        "relative_layer_norm/bias": "embedding.relative_layer_norm.bias",
        "head_dense/bias": f"{head}.1.bias",
        "logits_bias/bias": f"{head}.5.bias",
    }
    found.vectors(names)
    found.kernels({"head_dense/kernel": f"{head}.1.weight"})
    if not found.repeats(f"{head}.5.weight", embedding):
        raise UserError(f"'{head}.5.weight' differs from the embedding, to which this head is tied.")
    return found.tree(template)


# Networks by the names of their layers, which no two of them share.
LAYOUTS = {
    "model.layers": llama_params,
    "encoder.layers": dual_params,
    "transformer.layers": ltg_bert_params,
    "transformer.attention_layers": gpt_bert_params,
}


def load_file(path: Path, template: Any = None) -> Params:
    """Loads the float32 parameter tree of one network from a safetensors file, or from the files that an index names.

    The names tell the layout: Hugging Face's `LlamaForCausalLM`, ltgoslo/dual-language-models, ltgoslo/ltg-bert or
    ltgoslo/gpt-bert. `template` and errors are as in `llama_params`; raises `UserError` for any other layout, too.
    """
    weights = read_safetensors(path)
    for layers, params in LAYOUTS.items():
        if any(name.startswith(f"{layers}.") for name in weights):
            return params(weights, template)
    known = ", ".join(f"{layers}.*" for layers in LAYOUTS)
    raise UserError(f"{path} holds no network that is read here: none of its names is one of {known}.")
