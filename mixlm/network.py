"""Networks as objectives see them: the protocols they meet, and a module bound to its parameters."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Key

from mixlm.errors import UserError


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
        name: Net(modules[name], tree, None if dropout_key is None else jax.random.fold_in(dropout_key, index), name)
        for index, (name, tree) in enumerate(sorted(params.items()))
    }
