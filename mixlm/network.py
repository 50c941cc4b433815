"""Protocols that networks meet, and `Net`: a Linen module bound to its parameters."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Key

from mixlm.errors import UserError
from mixlm.example import Example
from mixlm.rng import network_key


@runtime_checkable
class Initializable(Protocol):
    """A Linen module that a recipe can train: it knows the smallest arguments of its own `__call__`."""

    def inputs(self) -> tuple[Any, ...]:
        """Arguments of `__call__`, as small as possible, to initialise the parameters with."""
        ...


@runtime_checkable
class Network(Initializable, Protocol):
    """A network that predicts tokens: hidden states, then logits, which losses ask for in chunks of positions.

    `logits` may be called on any block of hidden states; the loss never asks for all of them at once.
    """

    def hidden(self, example: Example) -> Float[Array, "B T D"]:
        """Hidden states of the decoder's positions, before the head."""
        ...

    def logits(self, hidden: Float[Array, "*any D"]) -> Float[Array, "*any V"]:
        """Float32 logits over the vocabulary."""
        ...


@runtime_checkable
class CachedNetwork(Network, Protocol):
    """A network that decodes token by token from a KV cache."""

    def empty_cache(self, example: Example, length: int) -> Any:
        """A cache of `length` free slots for the example's rows; an encoder's output is computed once and kept in it.

        Raises `UserError` where `length` is below one.
        """
        ...

    def extend(self, example: Example, cache: Any) -> tuple[Float[Array, "B T D"], Any]:
        """(`hidden` of tokens that continue those in the cache, the cache with these tokens added)."""
        ...


@runtime_checkable
class EncoderDecoderNetwork(Network, Protocol):
    """A network with an encoder, whose output can be shared by several heads: `hidden = decode(encode(x), x)`."""

    def encode(self, example: Example) -> Float[Array, "B S D"]:
        """The encoder's output; raises `UserError` for an example without `encoder_input_tokens`."""
        ...

    def decode(self, encoded: Float[Array, "B S D"], example: Example) -> Float[Array, "B T D"]:
        """Hidden states of the decoder's positions, given the encoder's output."""
        ...


@runtime_checkable
class LayeredNetwork(Protocol):
    """A network with a field `execution`: rematerialisation, scan over layers, attention implementation.

    `models.layer_stack.Execution` is one; `execution.scan` tells whether parameters are stacked layer over layer.
    """

    execution: Any


@runtime_checkable
class FixedVocabulary(Protocol):
    """A network whose field `vocab_size` bounds the token ids that it can embed or predict."""

    vocab_size: int


class Net:
    """A network with its parameters bound: `net.hidden(example)`; it may be called inside any JAX transform.

    A call runs in the scope `NETWORK.METHOD`, by which profiles are read and FLOPs told apart (`perf.accounting`).
    """

    def __init__(self, module: nn.Module, params: Any, dropout_key: Key[Array, ""] | None = None, name: str = "model"):
        self._module, self._params, self._key, self._name = module, params, dropout_key, name

    def __call__(self, *args: Any) -> Any:
        return self._apply("__call__", *args)

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            raise AttributeError(method)
        kind = type(self._module)
        if not hasattr(kind, method):
            raise UserError(f"The network {kind.__name__} has no method {method!r}, which the objective asks of it.")
        return partial(self._apply, method)

    def _apply(self, method: str, *args: Any) -> Any:
        rngs = None if self._key is None else {"dropout": self._key}
        with jax.named_scope(f"{self._name}.{method}"):
            return self._module.apply({"params": self._params}, *args, method=method, rngs=rngs)


def bind(
    modules: Mapping[str, nn.Module], params: Mapping[str, Any], dropout_key: Key[Array, ""] | None = None
) -> dict[str, Net]:
    """The networks of an objective, each with its parameters and, in training, its own stream of dropout noise."""
    return {
        name: Net(modules[name], tree, None if dropout_key is None else network_key(dropout_key, index), name)
        for index, (name, tree) in enumerate(sorted(params.items()))
    }
