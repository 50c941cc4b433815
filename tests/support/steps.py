"""Five train steps of tiny networks, on any mesh."""

from functools import cache, partial

import jax
import numpy as np

from mixlm.models.heads import TokenHead
from mixlm.objectives.spactor import SpacTor
from mixlm.objectives.span_corruption import SpanCorruption
from mixlm.optim.adamw import AdamW
from mixlm.optim.optimizer import Optimizer
from mixlm.parallel.mesh import Partitioning, batch_sharding, replicated
from mixlm.schedules import Constant
from mixlm.tokens import TokenIds
from mixlm.training.initial_state import initial_state
from mixlm.training.step import TrainStep
from support.networks import Bag
from support.xla import COMPILE_QUICKLY

TOKENS = TokenIds(vocab_size=64, mask=3, sentinels=8)
SPANS = SpanCorruption(TOKENS)
SPACTOR = SpacTor(SPANS)
ROWS, LENGTH, SEED = 8, 32, 7
BATCHES = [
    {"tokens": np.random.default_rng(step).integers(4, 56, (ROWS, LENGTH)).astype(np.int32)} for step in range(5)
]


NETWORKS = {"generator": Bag(), "model": Bag(), "rtd_head": TokenHead(8)}
MODULES = tuple(sorted(NETWORKS.items()))

# An eps that keeps Adam from blowing rounding errors of tiny gradients up to whole steps.
OPTIMIZER = Optimizer(AdamW(eps=1e-3), Constant(0.02))

ONE = Partitioning().mesh(jax.devices()[:1])


@cache
def jitted(microbatches: int = 1, mesh=ONE, modules=MODULES):
    """(the first state's maker, the jitted step), put together as a run does it, but quicker to compile."""
    create, shapes = initial_state(dict(modules), OPTIMIZER, 0, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    step = jax.jit(
        TrainStep(modules, OPTIMIZER, microbatches).__call__,
        static_argnums=3,
        donate_argnums=0,
        out_shardings=(shardings, replicated(mesh)),
        compiler_options=COMPILE_QUICKLY,
    )
    return create, step


def placed(mesh, batch, seed=SEED):
    rows = jax.tree.map(lambda rows: jax.device_put(rows, batch_sharding(mesh)), batch)
    return rows, jax.device_put(np.int32(seed), replicated(mesh))


@cache
def first(modules=MODULES):
    """The first state on the host, made once."""
    return jax.device_get(jitted(1, ONE, modules)[0]())


@cache
def five_steps(objective, microbatches: int = 1, mesh=ONE, modules=MODULES):
    """(the last state, each step's figures on the host)."""
    _, step = jitted(microbatches, mesh, modules)
    shapes = initial_state(dict(modules), OPTIMIZER, 0, mesh)[1]
    state, figures = jax.tree.map(lambda x, shape: jax.device_put(x, shape.sharding), first(modules), shapes), []
    for batch in BATCHES:
        state, found = step(state, *placed(mesh, batch), objective)
        figures.append(jax.device_get(found))
    return state, figures


def assert_trees_close(found, wanted, rtol=1e-5, atol=1e-6):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=atol), found, wanted)
