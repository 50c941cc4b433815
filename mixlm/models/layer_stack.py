"""How the layers of a network run: what they keep for the gradient, and unrolled or in a loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mixlm.errors import UserError, nearest
from mixlm.models.attention.dispatch import check_attention
from mixlm.models.attention.dot_product import KEPT
from mixlm.models.kv_cache import KeysValues, Slots
from mixlm.params import stack_layers

# Those of jax.checkpoint_policies that need no arguments.
POLICIES = (
    "everything_saveable",
    "nothing_saveable",
    "dots_saveable",
    "checkpoint_dots",
    "dots_with_no_batch_dims_saveable",
    "checkpoint_dots_with_no_batch_dims",
    # Ours: the last one, and what attention keeps for its gradient.
    "dots_and_attention_saveable",
)


# By these a layer keeps its products, but not what attention gives.
WITHOUT_ATTENTION = POLICIES[2:6]


@dataclass(frozen=True)
class Execution:
    """How a network computes what it computes: memory and time differ, numbers only by rounding.

    `remat` names the policy of `jax.checkpoint_policies` by which a layer keeps what its gradient needs
    ("nothing_saveable": its input alone); the rest is computed again, for the resident kernel along with its gradient
    where products are kept and what attention gives is not. None keeps everything. `scan` stacks the
    parameters of the layers and runs one compiled layer in a loop; dropout has other noise there. `attention` is how
    attention is computed: "plain", with weights "recomputed" for the gradient, or, without a learnt bias, by a "splash"
    kernel or by "cudnn", or "auto", what is best on the device; with a learnt bias that is, on a TPU, the resident
    kernel, where it fits. Raises `UserError` for an unknown policy or attention.
    """

    remat: str | None = None
    scan: bool = False
    attention: str = "auto"

    def __post_init__(self) -> None:
        if self.remat is not None and self.remat not in POLICIES:
            raise UserError(
                f"REMAT = {self.remat!r} is no policy of jax.checkpoint_policies that can stand alone "
                f"({', '.join(POLICIES)}).{nearest(str(self.remat), POLICIES)}"
            )
        check_attention(self.attention)

    @property
    def attending(self) -> tuple[str, bool]:
        """(`attention`, whether what it gives is made again for the gradient, where products are kept)."""
        return self.attention, self.remat in WITHOUT_ATTENTION


def stacked(layer: Callable[[int], nn.Module], count: int, execution: Execution) -> Any:
    """The layers of a stack to be set up as `layers`: a list of them, or the one that is scanned over."""
    return layer(0) if execution.scan else [layer(index) for index in range(count)]


def apply_layers(
    layers: Any,
    count: int,
    execution: Execution,
    x: Float[Array, "B T D"],
    past: Sequence[Slots] | None,
    *shared: Any,
) -> tuple[Float[Array, "B T D"], list[KeysValues]]:
    """Applies `count` layers, each as `x, written = layer(x, past, *shared)`, in the way of `execution`.

    `past` holds each layer's part of a cache. Returns the last layer's output and, with a cache, what each layer wrote.
    """

    def call(layer: Any, x: Array, slots: Slots | None, *shared: Any) -> tuple[Array, KeysValues | None]:
        x, written = layer(x, slots, *shared)
        return x, None if slots is None else written

    if execution.remat is not None:
        policy = _policy(execution.remat)
        # In a loop, nothing can be merged with the forward pass anyway.
        call = nn.remat(call, policy=policy, prevent_cse=not execution.scan)
    if execution.scan:
        return _scanned(call, layers, count, x, past, shared)
    found: list[Any] = []
    for index, layer in enumerate(layers):
        x, written = call(layer, x, None if past is None else past[index], *shared)
        found.append(written)
    return x, found if past is not None else []


def _policy(name: str) -> Any:
    policies = jax.checkpoint_policies
    if name == "dots_and_attention_saveable":
        attention = policies.save_only_these_names(KEPT)
        return policies.save_from_both_policies(policies.dots_with_no_batch_dims_saveable, attention)
    return getattr(policies, name)


def map_layers(function: Callable[[Any], Any], layers: Any, count: int, execution: Execution) -> list[Any]:
    """What `function` returns for each of `count` layers."""
    if not execution.scan:
        return [function(layer) for layer in layers]
    scan = nn.scan(lambda layer, nothing: (nothing, function(layer)), variable_axes={"params": 0}, length=count)
    return _apart(scan(layers, ())[1], count)


def _apart(tree: Any, count: int) -> list[Any]:
    leaves, treedef = jax.tree.flatten(tree)
    return [jax.tree.unflatten(treedef, [leaf[index] for leaf in leaves]) for index in range(count)]


def _scanned(call: Any, layer: Any, count: int, x: Any, past: Any, shared: tuple[Any, ...]) -> Any:
    scan = nn.scan(
        call,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0, *(nn.broadcast for _ in shared)),
        length=count,
    )
    slots = None if past is None else jax.tree.map(lambda *leaves: jnp.stack(leaves), *past)
    x, written = scan(layer, x, slots, *shared)
    return x, [] if past is None else _apart(written, count)


@nn.nowrap
def init(network: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The `init` of every network with layers: scanned or not, the same seed gives the same parameters.

    Initialising inside of a scan would lose the scale that a layer's place gives it.
    """
    execution = network.execution
    if not execution.scan:
        return nn.Module.init(network, *args, **kwargs)
    unrolled = network.clone(execution=replace(execution, scan=False))
    return stack_layers(nn.Module.init(unrolled, *args, **kwargs))
