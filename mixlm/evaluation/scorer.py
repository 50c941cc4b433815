"""Batched scoring: sentences are sorted by length and padded to few lengths, one executable for each."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Float64, Int

from mixlm.errors import UserError
from mixlm.evaluation.base import Mode, SampledMode, TokenMode, copies_of
from mixlm.evaluation.buckets import padded_lengths
from mixlm.evaluation.drawn import every
from mixlm.evaluation.likelihood import Fused
from mixlm.evaluation.reading import Predicted, Rows
from mixlm.evaluation.sentences import Sentences, counts_of, draw_of
from mixlm.evaluation.shared_rows import Plan, plan_of, scores_of_both
from mixlm.network import Net
from mixlm.parallel.mesh import batch_sharding
from mixlm.perf.memory import Need, check_fits, host_bytes
from mixlm.reports.metrics import progress_bar


@dataclass(frozen=True, eq=False)
class Scores:
    """A log-probability for each sentence, in nats; of rows that are drawn, or noise samples, the estimate of each."""

    total: Float64[np.ndarray, " N"]
    samples: Float64[np.ndarray, "N S"] | None = None


@dataclass(frozen=True, eq=False)
class TokenScores:
    """The log-probability that a mode gives each token of each sentence, in nats, NaN where it is not scored.

    They add up to the sentence's score. `likeliest` says that no scored token was less likely than another where it was
    predicted: the greedy text of a causal network, and of a masked one what it fills in.
    """

    log_p: Sequence[Float64[np.ndarray, "..."]]
    likeliest: Bool[np.ndarray, " N"]

    @property
    def total(self) -> Float64[np.ndarray, " N"]:
        """Each sentence's score."""
        return np.asarray([np.nansum(each) for each in self.log_p], np.float64)


@dataclass(eq=False)
class Scorer:
    """A network with its parameters; a mode's scores are kept for fused modes, which add them up.

    `batch_tokens` is the size of a batch, padding included; its rows are shared by the devices of the mesh. `watch` is
    told the mode's name and the tokens of each batch; without it every mode has a bar of its own.
    """

    module: nn.Module
    params: Any
    mesh: Mesh
    batch_tokens: int = 1024
    watch: Callable[[str, int], Any] | None = None
    _found: dict[tuple[Mode, Sentences], Scores] = field(default_factory=dict)
    _plans: dict[tuple[Mode, Sentences], Plan] = field(default_factory=dict)

    def __call__(self, mode: Mode | Fused, sentences: Sentences, name: str = "") -> Scores:
        """Scores every sentence, an impossible one -inf; raises UserError where a score is no number."""
        if isinstance(mode, Fused):
            return Scores(np.sum([self(part, sentences, name).total for part in mode.parts], axis=0))
        key = (mode, sentences)
        if key not in self._found:
            self._found[key] = self._score(mode, sentences, name)
        return self._found[key]

    def tokens(self, mode: Mode | Fused, sentences: Sentences, name: str = "") -> TokenScores:
        """Scores every token of every sentence; a fused mode adds up its parts, and `likeliest` is its first one's.

        Every row is read, none drawn. Raises UserError for a mode from outside that knows sums alone, and where a score
        is no number.
        """
        if isinstance(mode, Fused):
            parts = [self.tokens(part, sentences, name) for part in mode.parts]
            return TokenScores([_added(each) for each in zip(*(part.log_p for part in parts))], parts[0].likeliest)
        if not isinstance(mode, TokenMode):
            raise UserError(f"The mode {name or type(mode).__name__} has no predict(), so it scores no single tokens.")
        lengths = sentences.lengths
        copies = copies_of(mode, lengths, sentences.prefixes)
        owner, longest = np.repeat(np.arange(len(lengths)), copies), int(lengths.max(initial=0))
        need = Need(f"{lengths.size * longest:,} tokens to be scored", 8 * lengths.size * longest, "score fewer rows")
        check_fits(f"The mode {name or type(mode).__name__}", [need], host_bytes(), "this machine")
        total, missed = np.zeros((len(lengths), longest)), np.zeros(len(lengths), bool)
        for places, (log_p, wrong) in self._computed(row_predictions, mode, sentences, copies, every(copies), name):
            added, width = np.zeros((len(places), longest)), min(log_p.shape[1], longest)
            added[:, :width] = log_p[: len(places), :width]
            np.add.at(total, owner[places], added)
            np.logical_or.at(missed, owner[places], wrong[: len(places)].any(axis=1))
        self._check(total, mode, name)
        scored = mode.scored(lengths, sentences.prefixes)
        starts = (lengths - scored).tolist()
        of_tokens = [np.r_[np.full(start, np.nan), row[start:end]] for row, start, end in zip(total, starts, lengths)]
        return TokenScores(of_tokens, ~missed)

    def read(self, mode: Mode | Fused, sentences: Sentences) -> dict[Mode, int]:
        """The tokens that the network reads in a mode, padding included, or in each part of a fused one."""
        found = {}
        for part in mode.parts if isinstance(mode, Fused) else (mode,):
            counts = self.plan(part, sentences).counts
            found[part] = int((counts * padded_lengths(sentences.lengths, counts)).sum())
        return found

    def plan(self, mode: Mode, sentences: Sentences) -> Plan:
        """The rows to read in a mode; UserError for more than this machine holds."""
        if (mode, sentences) not in self._plans:
            rows = int(counts_of(mode, sentences).sum())
            # The values, the sentence, number and twin of each row, and its place sorted by length.
            need = Need(f"{rows:,} rows to be scored", 64 * rows, "lower NOISE_SAMPLES or SCORED_ROWS")
            check_fits(f"The mode {type(mode).__name__}", [need], host_bytes(), "this machine")
            self._plans[mode, sentences] = plan_of(mode, sentences)
        return self._plans[mode, sentences]

    def _score(self, mode: Mode, sentences: Sentences, name: str) -> Scores:
        copies = copies_of(mode, sentences.lengths, sentences.prefixes)
        draw = draw_of(mode, sentences)
        plan, rows = self.plan(mode, sentences), int(counts_of(mode, sentences).sum())
        values, others = np.zeros((2, rows))
        function = row_scores if plan.twin is None else scores_of_both
        for places, found in self._computed(function, mode, sentences, plan.counts, plan.numbers, name):
            for kept, each in zip((values, others), found):
                kept[plan.places[places]] = each[: len(places)]
        if plan.twin is not None:
            values = np.where(plan.twin < 0, values, others[plan.twin])
        self._check(values, mode, name)
        if draw is not None:
            samples = draw.samples(values, copies)
            return Scores(samples.mean(axis=1), samples if rows < copies.sum() else None)
        sentence = np.repeat(np.arange(len(copies)), copies)
        total = np.bincount(sentence, weights=values, minlength=len(copies)).astype(np.float64)
        if not isinstance(mode, SampledMode):
            return Scores(total)
        samples = np.zeros((len(copies), mode.samples))
        samples[copies > 0] = values.reshape(-1, mode.samples) * mode.samples
        return Scores(total, samples)

    def _computed(
        self,
        function: Any,
        mode: Mode,
        sentences: Sentences,
        counts: Int[np.ndarray, " N"],
        numbers: Int[np.ndarray, " R"],
        name: str,
    ) -> Iterator[tuple[Int[np.ndarray, " R"], list[np.ndarray]]]:
        """The places of each batch's rows, and the arrays that `function` makes of it, fetched one batch late."""
        late: list[tuple[Any, Any]] = []
        bar = {"total": len(numbers), "desc": name, "unit": " rows", "unit_scale": True, "leave": False}
        with progress_bar(**bar | ({} if self.watch is None else {"disable": True})) as shown:
            for places, batch in self._batches(sentences, sentences.lengths, counts, numbers):
                late.append((places, function(self.module, mode, self.params, batch)))
                if len(late) > 1:
                    before, found = late.pop(0)
                    yield before, [np.asarray(leaf) for leaf in jax.tree.leaves(found)]
                shown.update(len(places))
                if self.watch is not None:
                    self.watch(name, len(places) * batch.tokens.shape[1])
            for before, found in late:
                yield before, [np.asarray(leaf) for leaf in jax.tree.leaves(found)]

    def _check(self, values: Float64[np.ndarray, "..."], mode: Mode, name: str) -> None:
        if np.isnan(values).any():
            raise UserError(
                f"A score in the mode {name or type(mode).__name__} is NaN, so the network has diverged: score an"
                " earlier checkpoint, as RUN@STEP."
            )

    def _batches(
        self,
        sentences: Sentences,
        lengths: Int[np.ndarray, " N"],
        counts: Int[np.ndarray, " N"],
        numbers: Int[np.ndarray, " R"],
    ) -> Iterator[tuple[Int[np.ndarray, " R"], Rows]]:
        """Batches, each with the places of its rows, dummies left out, among all rows in the order of sentences."""
        padded = padded_lengths(lengths, counts)
        parts = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        put = partial(jax.device_put, device=batch_sharding(self.mesh))
        owner = np.repeat(np.arange(len(lengths)), counts)
        texts = (sentences.tokens, sentences.words, sentences.others)
        for length in np.unique(padded[counts > 0]):
            bucket = np.flatnonzero(padded[owner] == length)
            # A batch is no larger than its rows, rounded up so that few sizes are compiled.
            each = min(self.batch_tokens // int(length) // parts, 1 << (len(bucket) - 1).bit_length())
            size = max(each, 1) * parts
            for start in range(0, len(bucket), size):
                places = bucket[start : start + size]
                member, dummies = owner[places], (0, size - len(places))
                rows = np.zeros((len(texts), size, length), np.int32)
                for row, sentence in enumerate(member.tolist()):
                    for text, given in zip(rows, texts):
                        if given is not None:
                            text[row, : lengths[sentence]] = given[sentence]
                columns = [lengths[member], sentences.prefixes[member], numbers[places], sentences.noise[member]]
                columns += [] if sentences.previous is None else [sentences.previous[member]]
                batch = Rows(put(rows[0]), *(put(np.pad(column, dummies).astype(np.int32)) for column in columns))
                named = zip(("words", "others"), texts[1:], rows[1:])
                yield places, replace(batch, **{name: put(row) for name, given, row in named if given is not None})


def _added(scores: Sequence[Float64[np.ndarray, " T"]]) -> Float64[np.ndarray, " T"]:
    """The sum of a sentence's token scores in several modes, of those that score the token."""
    return np.where(np.all(np.isnan(scores), axis=0), np.nan, np.nansum(scores, axis=0))


@partial(jax.jit, static_argnums=(0, 1))
def row_scores(module: nn.Module, mode: Mode, params: Any, rows: Rows) -> Float[Array, " B"]:
    """Each row's contribution to its sentence's log-probability."""
    return mode(Net(module, params), rows)


@partial(jax.jit, static_argnums=(0, 1))
def row_predictions(module: nn.Module, mode: TokenMode, params: Any, rows: Rows) -> Predicted:
    """Each row's predictions of its tokens."""
    return mode.predict(Net(module, params), rows)
