"""One step: the objective's own loss is descended, microbatches change nothing, what is not trained stays."""

from dataclasses import dataclass, replace
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.steps import (
    BATCHES,
    LENGTH,
    NETWORKS,
    ONE,
    OPTIMIZER,
    ROWS,
    SEED,
    SPACTOR,
    SPANS,
    TOKENS,
    Bag,
    assert_trees_close,
    first,
    five_steps,
    jitted,
    placed,
)

from mixlm.data.dataset import Dataset
from mixlm.data.tasks import TextFiles, TextTask
from mixlm.data.vocabulary import TrainedSentencePiece
from mixlm.losses.terms import Term
from mixlm.losses.token_losses import CrossEntropy, MiLe
from mixlm.network import bind
from mixlm.objectives.curriculum import Curriculum, Stage
from mixlm.optim.optimizer import Optimizer
from mixlm.recipe import Recipe
from mixlm.rng import row_keys
from mixlm.schedules import Constant
from mixlm.training.prepare import prepare
from mixlm.training.step import TrainState, TrainStep


def with_loss(loss, objective):
    spans = replace(SPANS, loss=loss)
    return replace(SPACTOR, spans=spans, generator_loss=loss) if objective == "spactor" else spans


def test_the_steps_figures_are_the_objectives_own_terms():
    create, step = jitted()
    for objective in (SPANS, SPACTOR):
        state = create().replace(step=jnp.int32(11))
        key = jax.random.fold_in(jax.random.key(SEED), 11)
        keys = jnp.stack([jax.random.fold_in(key, row) for row in range(ROWS)])
        direct = jax.jit(lambda params, *rest, objective=objective: objective(bind(NETWORKS, params), *rest))
        terms = direct(state.params, BATCHES[0], keys, state.step)
        _, figures = step(state, *placed(ONE, BATCHES[0]), objective)
        loss = sum(float(term.weight) * float(term.total) / float(term.count) for term in terms.values())
        assert float(figures["loss"]) == pytest.approx(loss, rel=1e-5)
        for name, term in terms.items():
            assert float(figures[name]) == pytest.approx(float(term.total) / float(term.count), rel=1e-5)
        counted = {f"{name}/{sum_of}" for name in terms if "/" not in name for sum_of in ("tokens", "mass")}
        assert set(figures) == {"loss", *terms, *counted, "learning_rate", "grad_norm"}
    assert {"generator", "rtd", "span_corruption"} <= set(terms)


@pytest.mark.parametrize(
    ("objective", "loss", "microbatches"),
    [
        ("span_corruption", CrossEntropy(z_loss=1e-2), 2),
        ("spactor", CrossEntropy(z_loss=1e-2), 4),
        ("span_corruption", MiLe(gamma=2.0), 4),
        pytest.param("spactor", CrossEntropy(z_loss=1e-2), 2, marks=pytest.mark.slow),
        pytest.param("span_corruption", CrossEntropy(z_loss=1e-2), 4, marks=pytest.mark.slow),
        pytest.param("spactor", MiLe(gamma=2.0), 4, marks=pytest.mark.slow),
    ],
)
def test_microbatches_change_nothing(objective, loss, microbatches):
    state, figures = five_steps(with_loss(loss, objective), microbatches)
    wanted_state, wanted_figures = five_steps(with_loss(loss, objective))
    assert_trees_close(figures, wanted_figures)
    assert_trees_close(state.params, wanted_state.params)
    assert_trees_close(state.opt_state, wanted_state.opt_state, atol=1e-8)


def test_what_a_stage_does_not_train_stays_to_the_bit():
    state, _ = five_steps(with_loss(CrossEntropy(z_loss=1e-2), "span_corruption"))
    for name in ("generator", "rtd_head"):
        jax.tree.map(np.testing.assert_array_equal, state.params[name], first().params[name])
        jax.tree.map(np.testing.assert_array_equal, state.opt_state[name], first().opt_state[name])
    moved = jax.tree.map(lambda new, old: (new != old).any(), state.params["model"], first().params["model"])
    assert all(jax.tree.leaves(moved))


def test_spactor_trains_all_three_networks_and_counts_its_steps():
    state, _ = five_steps(with_loss(CrossEntropy(z_loss=1e-2), "spactor"))
    moved = jax.tree.map(lambda new, old: (new != old).any(), state.params, first().params)
    assert all(jax.tree.leaves(moved)) and set(state.params) == {"generator", "model", "rtd_head"}
    assert int(first().step) == 0 and int(state.step) == 5


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31 - 1), st.integers(0, 2**20), st.integers(0, 4))
def test_a_rows_key_depends_on_seed_step_and_row_alone(seed, step, row):
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), row)
    found = jax.random.key_data(row_keys(seed, step, 5))
    np.testing.assert_array_equal(found[row], jax.random.key_data(key))
    np.testing.assert_array_equal(found, jax.random.key_data(row_keys(seed, step, 8))[:5])


def test_rows_steps_and_seeds_have_keys_of_their_own():
    keys = [jax.random.key_data(row_keys(seed, step, 4)).tolist() for seed in range(4) for step in range(4)]
    assert len({tuple(key) for rows in keys for key in rows}) == 64


def test_noise_changes_from_step_to_step_and_returns_with_the_step():
    create, step = jitted()

    def loss(at: int, seed: int = SEED) -> float:
        state = create().replace(step=jnp.int32(at))
        return float(step(state, *placed(ONE, BATCHES[0], seed), SPANS)[1]["loss"])

    assert loss(3) == loss(3)
    assert len({loss(3), loss(4), loss(3, seed=SEED + 1)}) == 3


def test_dropout_is_on_in_training_and_its_noise_is_the_steps():
    modules = (("model", Bag(dropout_rate=0.5)),)
    create, step = jitted(1, ONE, modules)
    dry = five_steps(SPANS, 1, ONE, (("model", Bag()),))[1][0]["loss"]
    found = [float(step(create(), *placed(ONE, BATCHES[0]), SPANS)[1]["loss"]) for _ in range(2)]
    assert found[0] == found[1] != pytest.approx(float(dry), rel=1e-4)


class Dropping(nn.Module):
    """One number a unit, of which dropout keeps half, doubled."""

    @nn.compact
    def __call__(self, x):
        return jnp.sum(nn.Dropout(0.5, deterministic=False)(x) * self.param("w", nn.initializers.zeros, x.shape))


@dataclass(frozen=True)
class Kept:
    """A loss whose gradient is the units that dropout keeps."""

    name: ClassVar[str] = "kept"
    networks: ClassVar[tuple[str, ...]] = ("model",)

    def block_length(self, lengths):
        return 1

    def __call__(self, nets, batch, keys, step):
        return {"kept": Term(nets["model"](jnp.ones(256)), jnp.ones(()))}


class Descent:
    def transform(self):
        return optax.scale(-1.0)


def test_each_microbatch_drops_other_units():
    params = {"model": {"w": jnp.zeros(256)}}
    optimizer = Optimizer(Descent(), Constant(1.0), clip_norm=None)
    step = TrainStep((("model", Dropping()),), optimizer, microbatches=2)
    state = TrainState(jnp.int32(0), params, optimizer.init(params))
    after, _ = step(state, {"tokens": jnp.ones((2, 1), jnp.int32)}, jnp.int32(0), Kept())
    kept = np.bincount(np.round(-np.asarray(after.params["model"]["w"])).astype(int), minlength=3)
    # Kept by none, one or both of two microbatches: a quarter, a half, a quarter; with one noise for both, no one.
    assert kept.sum() == 256 and np.all(np.abs(kept - [64, 128, 64]) < 40), kept


def test_a_few_rows_are_learnt_by_heart():
    create, step = jitted()
    rows = {"tokens": np.broadcast_to(np.arange(10, 10 + ROWS, dtype=np.int32)[:, None], (ROWS, LENGTH)).copy()}
    state, losses = create(), []
    for _ in range(100):
        state, figures = step(state, *placed(ONE, rows), SPANS)
        losses.append(float(figures["loss"]))
    assert losses[0] > 3.5 and np.mean(losses[-10:]) < 1.0


def test_a_run_donates_its_state():
    task = TextTask("tiny", TextFiles("no_such_file.txt"), TrainedSentencePiece(vocab_size=64, sentinels=8))
    recipe = Recipe(
        name="tiny",
        networks=NETWORKS,
        curriculum=Curriculum((Stage(0, SPANS),)),
        dataset=Dataset(task),
        tokens=TOKENS,
        optimizer=OPTIMIZER,
        train_steps=2,
        batch_size=ROWS,
        lengths=dict(zip(("inputs", "targets"), SPANS.lengths(LENGTH))),
    )
    prepared = prepare(recipe, None)
    try:
        before = prepared.init_state()
        after, _ = prepared.train_step[SPANS](before, prepared.shard_batch(BATCHES[0]), prepared.scalar(SEED))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(after))
        # What comes out goes in again: the shardings of the state do not change from step to step.
        again, _ = prepared.train_step[SPANS](after, prepared.shard_batch(BATCHES[1]), prepared.scalar(SEED))
        assert int(again.step) == 2
    finally:
        prepared.close()
