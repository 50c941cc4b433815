"""Parameters under transformers' names: one table for each architecture, read in both directions."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.core import meta
from flax.traverse_util import flatten_dict, unflatten_dict

from mixlm.checkpoints.from_t5x import as_float32
from mixlm.errors import UserError, nearest
from mixlm.params import laid_out_as, unstack_layers

Params = dict[str, Any]

# Names by regular expressions over ours; torch keeps a linear map as [out, in], so kernels are transposed.
PROJECTIONS = {"query": "q", "key": "k", "value": "v", "out": "o"}
LLAMA_NAMES = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.o_proj",
    "wi_0": "mlp.gate_proj",
    "wi_1": "mlp.up_proj",
    "wo": "mlp.down_proj",
    "pre_self_attention_layer_norm": "input_layernorm",
    "pre_mlp_layer_norm": "post_attention_layernorm",
}
# The sublayers of T5's blocks in order: ours, theirs.
T5_SUBLAYERS = {
    "encoder": (("attention", "SelfAttention", "attention"), ("mlp", "DenseReluDense", "mlp")),
    "decoder": (
        ("self_attention", "SelfAttention", "self_attention"),
        ("encoder_decoder_attention", "EncDecAttention", "cross_attention"),
        ("mlp", "DenseReluDense", "mlp"),
    ),
}
# What older checkpoints hold beside the parameters: tables that a network works out, and copies of the embedding.
LEFT_OUT = {
    "llama": re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"),
    "t5": re.compile(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"),
}
# The arrays with a row for each token.
EMBEDDINGS = {
    "llama": ("lm_head.weight", "model.embed_tokens.weight"),
    "t5": ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight", "shared.weight"),
    "mixlm": ("model.token_embedder.weight", "model.logits_dense.weight", "model.logits_bias.bias"),
}
COPIES = {
    "llama": ("lm_head.weight", "model.embed_tokens.weight"),
    "t5": ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight", "shared.weight"),
}


class Theirs(NamedTuple):
    """A parameter's name in a state dict, and whether it is transposed there."""

    name: str
    transposed: bool


def llama_name(ours: str) -> Theirs | None:
    """The name of one of `Llama`'s parameters in `LlamaForCausalLM`, None where that has no place for it."""
    fixed = {
        "token_embedder/embedding": Theirs("model.embed_tokens.weight", False),
        "decoder_norm/scale": Theirs("model.norm.weight", False),
        "logits_dense/kernel": Theirs("lm_head.weight", True),
    }
    match = re.fullmatch(r"layers_(\d+)/(?:\w+/)?(\w+)/(kernel|scale)", ours)
    if match is None or match[2] not in LLAMA_NAMES:
        return fixed.get(ours)
    return Theirs(f"model.layers.{match[1]}.{LLAMA_NAMES[match[2]]}.weight", match[3] == "kernel")


def t5_name(ours: str) -> Theirs | None:
    """The name of one of `EncoderDecoder`'s parameters in `T5ForConditionalGeneration`, None without a place."""
    fixed = {"token_embedder/embedding": "shared", "decoder/logits_dense/kernel": "lm_head"}
    fixed |= {f"{side}/{side}_norm/scale": f"{side}.final_layer_norm" for side in T5_SUBLAYERS}
    if ours in fixed:
        return Theirs(f"{fixed[ours]}.weight", ours.endswith("kernel"))
    if match := re.fullmatch(r"(encoder|decoder)/relpos_bias/rel_embedding", ours):
        return Theirs(f"{match[1]}.block.0.layer.0.SelfAttention.relative_attention_bias.weight", True)
    match = re.fullmatch(r"(encoder|decoder)/layers_(\d+)/(\w+)(?:/(\w+))?/(?:kernel|scale)", ours)
    if match is None:
        return None
    side, layer, part, matrix = match.groups()
    for place, (name, theirs, norm) in enumerate(T5_SUBLAYERS[side]):
        block = f"{side}.block.{layer}.layer.{place}"
        if part == f"pre_{norm}_layer_norm":
            return Theirs(f"{block}.layer_norm.weight", False)
        if part == name and matrix:
            return Theirs(f"{block}.{theirs}.{PROJECTIONS.get(matrix, matrix)}.weight", True)
    return None


def mixlm_name(ours: str) -> Theirs:
    """The name in `modeling_mixlm.py`, whose modules are called as ours are."""
    path = re.sub(r"layers_(\d+)", r"layers.\1", ours.removeprefix("decoder/")).replace("/", ".")
    path = re.sub(r"\.(kernel|scale|embedding)$", ".weight", path)
    return Theirs(f"model.{path}", ours.endswith("/kernel"))


NAMES = {"llama": llama_name, "t5": t5_name, "mixlm": mixlm_name}


def to_theirs(architecture: str, params: Any) -> dict[str, np.ndarray]:
    """A network's parameters, stacked or not, as float32 arrays under the names of its architecture, sorted."""
    found = {}
    for ours, value in flatten_dict(unstack_layers(meta.unbox(params)), sep="/").items():
        theirs = NAMES[architecture](ours)
        if theirs is None:
            raise UserError(f"The parameter {ours!r} has no place in transformers' {architecture}.")
        array = np.asarray(value, np.float32)
        found[theirs.name] = np.ascontiguousarray(array.T if theirs.transposed else array)
    return dict(sorted(found.items()))


def from_theirs(architecture: str, weights: Mapping[str, Any], template: Any) -> Params:
    """The inverse of `to_theirs`, in the layout of `template`, a parameter tree or its shapes.

    Raises UserError for the first weight that is missing, of another shape, no array of floats, or unexpected.
    """
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), meta.unbox(template))
    left, found = dict(weights), {}
    for ours, shape in flatten_dict(unstack_layers(shapes), sep="/").items():
        theirs = NAMES[architecture](ours)
        if theirs is None or theirs.name not in weights:
            wanted = ours if theirs is None else theirs.name
            raise UserError(f"The weight {wanted!r} is missing.{nearest(wanted, left)}")
        array = as_float32(theirs.name, left.pop(theirs.name))
        expected = tuple(reversed(shape.shape)) if theirs.transposed else tuple(shape.shape)
        if array.shape != expected:
            raise UserError(f"The weight {theirs.name!r} is of shape {array.shape}, and config.json says {expected}.")
        found[ours] = array.T if theirs.transposed else array
    _check_left(architecture, left, weights)
    return laid_out_as(unflatten_dict(found, sep="/"), template)


def _check_left(architecture: str, left: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
    """Raises UserError for a weight that the network has no place for, unless it repeats the embedding."""
    *copies, embedding = COPIES.get(architecture, ("",))
    for name, value in left.items():
        if name in copies and np.array_equal(value, weights[embedding]):
            continue
        if architecture in LEFT_OUT and LEFT_OUT[architecture].fullmatch(name):
            continue
        raise UserError(f"The weight {name!r} is unexpected: config.json describes a network without it.")


def fitted_rows(name: str, value: np.ndarray, kind: str, rows: int, zero: int) -> np.ndarray:
    """An embedding's or a head's array with at least `rows` rows, the new ones their mean.

    Row 0 and row `zero` change places.
    """
    if name not in EMBEDDINGS[kind] or value.ndim == 0 or (len(value) == rows and not zero):
        return value
    wide = np.asarray(value, np.float32)
    new = np.broadcast_to(wide.mean(axis=0), (max(rows - len(wide), 0), *wide.shape[1:]))
    wide = np.concatenate([wide, new])
    if zero:
        wide[[0, zero]] = wide[[zero, 0]]
    return wide
