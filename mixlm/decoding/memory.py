"""The least memory of decoding, known from shapes before anything is compiled."""

import math
from typing import Any

import flax.linen as nn
import jax
from flax.core import meta

from mixlm.decoding.diffusion import ROWS_AT_ONCE
from mixlm.decoding.strategies import Autoregressive, Spans, Strategy
from mixlm.errors import UserError
from mixlm.example import Example
from mixlm.network import CachedNetwork, Net
from mixlm.parallel.mesh import boxed_parameters
from mixlm.perf.memory import Need, check_fits, device_bytes
from mixlm.tokens import TokenIds

MOST_TOKENS = 2**31 - 1  # a position is an int32


def check_length(module: nn.Module, strategy: Strategy, prompt: Example, length: int, ids: TokenIds) -> None:
    """Raises UserError where `length` new tokens for each row of `prompt` do not fit the memory of a device."""
    if length > MOST_TOKENS:
        raise UserError(f"max_tokens = {length} is beyond 2^31 - 1, the last position that there is.")
    rows = prompt.decoder_input_tokens.shape[0]
    devices = jax.devices()
    where = "this machine" if devices[0].platform == "cpu" else f"each {devices[0].device_kind}"
    held = device_bytes(devices[:1])
    check_fits(f"Decoding {length} tokens", [_need(module, strategy, prompt, rows, length, ids)], held, where)


def _need(module: nn.Module, strategy: Strategy, prompt: Example, rows: int, length: int, ids: TokenIds) -> Need:
    if isinstance(strategy, Autoregressive | Spans) and isinstance(module, CachedNetwork):
        parameters = meta.unbox(boxed_parameters(module)[0])
        cache = jax.eval_shape(lambda params, asked: Net(module, params).empty_cache(asked, length), parameters, prompt)
        return Need("keys and values", strategy.beams * _size(cache), "lower max_tokens")
    return Need("logits", 4 * min(rows, ROWS_AT_ONCE) * length * ids.vocab_size, "lower max_tokens")


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
