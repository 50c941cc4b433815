"""States of a few parameters, and checkpoints of them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mixlm.checkpoints.saving import Checkpoints
from mixlm.optim.adafactor import Adafactor
from mixlm.optim.optimizer import Optimizer
from mixlm.schedules import Constant


class State(struct.PyTreeNode):
    step: jax.Array
    params: dict
    opt_state: dict


def mesh(devices: int) -> Mesh:
    return Mesh(np.array(jax.devices()[:devices]), ("data",))


def placed(state: State, devices: int) -> State:
    """`state` on `devices`, its matrices cut along their rows."""

    def place(leaf):
        spec = PartitionSpec("data") if leaf.ndim == 2 and leaf.shape[0] % devices == 0 else PartitionSpec()
        return jax.device_put(leaf, NamedSharding(mesh(devices), spec))

    return jax.tree.map(place, state)


def some_state(step: int = 7, rule=None, width: int = 24) -> State:
    rng = np.random.default_rng(step)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    params = {
        "model": {"mlp": {"kernel": normal(16, width)}, "norm": {"scale": normal(16)}},
        "generator": {"kernel": normal(16, 16)},
    }
    rule = rule if rule is not None else Adafactor(min_dim_size_to_factor=8)
    opt_state = Optimizer(rule, Constant(1.0)).init(params)
    opt_state = jax.tree.map(lambda leaf: leaf + step, opt_state)
    return State(step=jnp.int32(step), params=params, opt_state=opt_state)


def abstract(state: State) -> State:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)


def assert_same_bits(left, right) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert one.dtype == other.dtype
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def write(folder: Path, steps: tuple[int, ...], keep: int = 5) -> None:
    checkpoints = Checkpoints(folder, keep=keep)
    for step in steps:
        assert checkpoints.save(step, some_state(step))
    checkpoints.close()


def tree_bytes(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
