"""Layer stacks: rematerialisation, and layers unrolled or scanned."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mixlm.errors import UserError, nearest
from mixlm.models.attention.choice import check_attention
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
    # Ours: dots_with_no_batch_dims_saveable, and the residuals of attention.
    "dots_and_attention_saveable",
)


# These save a layer's products, but not the output of attention.
WITHOUT_ATTENTION = POLICIES[2:6]


@dataclass(frozen=True)
class Execution:
    """Execution options of a network: memory and time differ, results only by rounding.

    `remat` names a policy of `jax.checkpoint_policies`, which says what a layer saves for its gradient
    ("nothing_saveable": its input alone); the rest is recomputed. None saves everything. `scan` stacks the parameters
    of the layers and runs one compiled layer in a loop; its dropout draws other noise. `attention` is the
    implementation: "plain"; "recomputed", with weights recomputed for the gradient; without a trainable bias "splash"
    or "cudnn"; or "auto", the best one on the device. With a trainable bias that is the VMEM-resident kernel on a TPU,
    where it fits. Raises `UserError` for an unknown policy or attention.
    """

    remat: str | None = None
    scan: bool = False
    attention: str = "auto"

    def __post_init__(self) -> None:
        if self.remat is not None and self.remat not in POLICIES:
            raise UserError(
                f"REMAT = {self.remat!r} is no policy of jax.checkpoint_policies without arguments "
                f"({', '.join(POLICIES)}).{nearest(str(self.remat), POLICIES)}"
            )
        check_attention(self.attention)

    @property
    def attending(self) -> tuple[str, bool]:
        """(`attention`, whether its output is recomputed where products are saved): arguments of `make_biased_view`."""
        return self.attention, self.remat in WITHOUT_ATTENTION


def stacked(layer: Callable[[int], nn.Module], count: int, execution: Execution) -> Any:
    """The attribute `layers` of a stack: a list of layers, or the one that is scanned over."""
    return layer(0) if execution.scan else [layer(index) for index in range(count)]


def apply_layers(
    layers: Any,
    count: int,
    execution: Execution,
    x: Any,
    past: Sequence[Slots] | None,
    *shared: Any,
) -> tuple[Any, list[KeysValues]]:
    """Applies `count` layers, each as `x, written = layer(x, past, *shared)`; `past` is the cache, layer by layer.

    `x` is the residual stream [B, T, D], or whatever tree of arrays the layers hand on; where they are scanned, it
    keeps its shapes. Returns (the last layer's output, each layer's new keys and values, [] without a cache).
    """

    def call(layer: Any, x: Any, slots: Slots | None, *shared: Any) -> tuple[Any, KeysValues | None]:
        x, written = layer(x, slots, *shared)
        return x, None if slots is None else written

    if execution.remat is not None:
        policy = _policy(execution.remat)
        # XLA merges nothing across the boundary of a loop.
        call = nn.remat(call, policy=policy, prevent_cse=not execution.scan)
    if execution.scan:
        return _scanned(call, layers, count, x, past, shared)
    found: list[Any] = []  # of each layer (keys, values), [B, H, S, K] both
    for index, layer in enumerate(layers):
        x, written = call(layer, x, None if past is None else past[index], *shared)
        found.append(written)
    return x, found if past is not None else []


def _policy(name: str) -> Any:
    policies = jax.checkpoint_policies
    if name == "dots_and_attention_saveable":
        attention = policies.save_from_both_policies(policies.save_only_these_names(KEPT), _is_cudnns_forward)
        return policies.save_from_both_policies(policies.dots_with_no_batch_dims_saveable, attention)
    return getattr(policies, name)


def _is_cudnns_forward(primitive: Any, *_: Any, **__: Any) -> bool:
    """True for cuDNN's forward kernel, whose output and statistics JAX gives no checkpoint name."""
    return primitive.name.startswith("dot_product_attention_fwd")


def map_layers(function: Callable[[Any], Any], layers: Any, count: int, execution: Execution) -> list[Any]:
    """`[function(layer) for layer in layers]`, also over a scanned stack of `count` layers."""
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
    slots = None if past is None else jax.tree.map(lambda *leaves: jnp.stack(leaves), *past)  # [L, B, H, S, K]
    x, written = scan(layer, x, slots, *shared)
    return x, [] if past is None else _apart(written, count)


@nn.nowrap
def init(network: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The `init` of networks with layers: the same parameters for the same seed, scanned or not.

    Initialising inside of a scan would lose initial scales that depend on a layer's index.
    """
    execution = network.execution
    plain = network.clone(execution=replace(execution, scan=False, remat=None))
    variables = nn.Module.init(plain, *args, **kwargs)
    return stack_layers(variables) if execution.scan else variables
