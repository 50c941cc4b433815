"""A trained network as seqio's predict and score functions, batched by length and sharded over the devices."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mixlm.data.judged import TaskMetrics
from mixlm.decoding.autoregressive import PROMPT_MULTIPLE
from mixlm.decoding.select import trained_objectives
from mixlm.decoding.strategies import Autoregressive, Spans
from mixlm.decoding.text import until_eos
from mixlm.errors import UserError
from mixlm.evaluation.exact_match import Decoding
from mixlm.losses.score import token_costs
from mixlm.network import bind
from mixlm.objectives.base import Answers, Corruption
from mixlm.objectives.pairs import OfPairs
from mixlm.parallel.logical_axes import Layout
from mixlm.parallel.mesh import batch_sharding
from mixlm.recipe import Recipe
from mixlm.rng import row_keys

TARGET_MULTIPLE = 8  # Ours: targets are padded to a few lengths, so that few executables are compiled.


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """The networks of a recipe with their parameters, which predicts and scores as `settings` say.

    A prediction is what the last stage's objective answers where it can (`objectives.base.Answers`), else what its
    network decodes. All processes of a run must call it with the same examples.
    """

    recipe: Recipe
    params: Mapping[str, Any]
    settings: TaskMetrics
    layout: Layout

    @cached_property
    def answering(self) -> Any:
        """The objective of the last stage where it answers by itself, else None."""
        return answering(self.recipe)

    def predictions(self, inputs: Sequence[Sequence[int]]) -> list[list[list[int]]]:
        """The texts in tokens that are said for each example's inputs, without EOS."""
        most = self.recipe.lengths["inputs"]
        cut = [tuple(each)[:most] for each in inputs]
        for number, row in enumerate(cut):
            if not row:
                raise UserError(f"Example {number} of a task has no inputs, so there is nothing to answer.")
        found: list[list[list[int]]] = [[] for _ in cut]
        for places, tokens in self._answered(cut) if self.answering is not None else self._decoded(cut):
            for place, row in zip(places, tokens):
                found[place].append(until_eos(row.tolist(), self.recipe.tokens))
        return found

    def _decoded(self, inputs: Sequence[Sequence[int]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches of (examples, what was decoded for each), sample by sample."""
        decoding = Decoding.of(self.settings.decoding)
        network, strategy = decoding.selection(self.recipe).network, decoding.strategy(self.recipe)
        module, params = self.recipe.networks[network], self.params[network]
        ids, length = self.recipe.tokens, self.recipe.lengths["targets"]
        for sample in range(self.settings.samples):
            keys = row_keys(self.settings.seed, sample, len(inputs))
            for places in self._batches([len(each) + 1 for each in inputs], PROMPT_MULTIPLE):
                filled = self._filled(places)
                prompt = strategy.read(module, [inputs[place] for place in filled], ids)
                noise = jax.random.wrap_key_data(self._spread(jax.random.key_data(keys[filled])))
                said = strategy(module, params, self._spread(prompt), noise, length, ids)
                yield places, self._fetched(said.tokens)

    def _answered(self, inputs: Sequence[Sequence[int]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        objective, modules = self.answering, self.recipe.modules
        lengths = self.recipe.lengths
        for places in self._batches([len(each) for each in inputs], lengths["inputs"]):
            rows = laid_out([inputs[place] for place in self._filled(places)], None, lengths)
            said = _answers(modules, objective, _of(self.params, objective), self._spread(rows))
            yield places, self._fetched(said)

    def scores(self, inputs: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> np.ndarray:
        """The log-likelihood of each example's targets given its inputs, in nats, cut as rows are."""
        objective, lengths = likelihood(self.recipe), self.recipe.lengths
        cut = [
            (tuple(read)[: lengths["inputs"]], tuple(said)[: lengths["targets"]]) for read, said in zip(inputs, targets)
        ]
        found = np.zeros(len(cut))
        sizes = np.asarray([(_up(len(a), PROMPT_MULTIPLE), _up(len(b), TARGET_MULTIPLE)) for a, b in cut])
        for size in np.unique(sizes, axis=0) if len(cut) else ():
            own = {name: min(int(n), lengths[name]) for name, n in zip(("inputs", "targets"), size)}
            bucket = np.flatnonzero((sizes == size).all(axis=1))
            for places in self._batches([1] * len(bucket), 1):
                chosen = bucket[self._filled(places)]
                rows = laid_out([cut[place][0] for place in chosen], [cut[place][1] for place in chosen], own)
                shaped = replace(objective, lengths=own)
                values = _scores(self.recipe.modules, shaped, _of(self.params, objective), self._spread(rows))
                found[bucket[places]] = self._fetched(values)[: len(places)]
        return found

    def _batches(self, lengths: Sequence[int], multiple: int) -> Iterator[np.ndarray]:
        """Places of examples that are padded to the same length, in batches of at most `settings.batch`."""
        padded = np.asarray([_up(length, multiple) for length in lengths])
        for length in np.unique(padded):
            places = np.flatnonzero(padded == length)
            yield from (places[i : i + self.settings.batch] for i in range(0, len(places), self.settings.batch))

    def _filled(self, places: np.ndarray) -> np.ndarray:
        """The places, repeated to a power of two, so that few sizes are compiled, that all devices share evenly."""
        devices = self.layout.parts("batch")
        most = _up(self.settings.batch, devices)
        return np.resize(places, min(most, _up(1 << (len(places) - 1).bit_length(), devices)))

    def _spread(self, tree: Any) -> Any:
        """Arrays whose rows are shared by the devices; every process gives all of them."""
        sharding = batch_sharding(self.layout)

        def put(leaf: Any) -> jax.Array:
            rows = np.asarray(leaf)
            return jax.make_array_from_callback(rows.shape, sharding, lambda where: rows[where])

        return jax.tree.map(put, tree)

    def _fetched(self, rows: jax.Array) -> np.ndarray:
        if jax.process_count() == 1:
            return np.asarray(rows)
        from jax.experimental.multihost_utils import process_allgather

        return np.asarray(process_allgather(rows, tiled=True))


def answering(recipe: Recipe) -> Any:
    """The objective of the last stage where it answers by itself, else None."""
    last = trained_objectives(recipe)[-1]
    return last if isinstance(last, Answers) else None


def networks(recipe: Recipe, settings: TaskMetrics) -> tuple[str, ...]:
    """The networks whose parameters predictions and scores need; UserError for settings that fit no decoding."""
    own = answering(recipe)
    if own is not None:
        if settings.decoding or settings.samples > 1:
            raise UserError(f"{type(own).__name__} answers by itself: leave METRIC_DECODING and METRIC_SAMPLES out.")
        return tuple(own.networks)
    decoding = Decoding.of(settings.decoding)
    strategy = decoding.strategy(recipe)
    if settings.samples > 1 and isinstance(strategy, Autoregressive | Spans) and strategy.temperature == 0:
        raise UserError(
            f"METRIC_SAMPLES = {settings.samples} texts without noise are one and the same: draw them, as with "
            "METRIC_DECODING = 'autoregressive temperature=0.8'."
        )
    scorers = {name for each in trained_objectives(recipe) if _is_likelihood(each) for name in each.networks}
    return tuple(sorted({decoding.selection(recipe).network} | scorers))


def likelihood(recipe: Recipe) -> Any:
    """The latest objective that gives pairs a likelihood; UserError where there is none."""
    for objective in reversed(trained_objectives(recipe)):
        if _is_likelihood(objective):
            return objective
    raise UserError(
        f"A metric asks for scores, and {trained_objectives(recipe)[-1].name!r} gives targets no likelihood: choose "
        "metrics of predictions."
    )


def _is_likelihood(objective: Any) -> bool:
    return isinstance(objective, OfPairs) and isinstance(objective, Corruption)


def laid_out(
    inputs: Sequence[Sequence[int]], targets: Sequence[Sequence[int]] | None, lengths: Mapping[str, int]
) -> Int[np.ndarray, "B L"]:
    """Pairs as rows (see `data.loader.pairs`), by default without targets."""
    middle = lengths["inputs"]
    rows = np.zeros((len(inputs), middle + lengths["targets"]), np.int32)
    for row, (read, said) in enumerate(zip(inputs, targets or [()] * len(inputs))):
        rows[row, middle - len(read) : middle] = read
        rows[row, middle : middle + len(said)] = said
    return rows


def _up(length: int, multiple: int) -> int:
    return max(-(-length // multiple), 1) * multiple


def _of(params: Mapping[str, Any], objective: Any) -> dict[str, Any]:
    return {name: params[name] for name in objective.networks}


@partial(jax.jit, static_argnums=(0, 1))
def _scores(modules: Any, objective: Any, params: Any, rows: Int[Array, "B L"]) -> Float[Array, " B"]:
    """Each row's log-likelihood of its targets."""
    net = bind(dict(modules), params)[objective.network]
    example = objective.corrupt(row_keys(0, 0, rows.shape[0]), {"tokens": rows})
    costs = token_costs(net.logits, net.hidden(example), example.decoder_target_tokens)
    return -jnp.sum(jnp.where(example.decoder_loss_weights > 0, costs, 0.0), axis=1)


@partial(jax.jit, static_argnums=(0, 1))
def _answers(modules: Any, objective: Any, params: Any, rows: Int[Array, "B L"]) -> Int[Array, "B T"]:
    """The answers of an objective to each row."""
    return objective.answers(bind(dict(modules), params), {"tokens": rows})
