"""Batched scoring: sentences are sorted by length and padded to a multiple of 8, one executable per shape."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float64, Int

from mixlm.errors import UserError
from mixlm.evaluation.likelihood import Fused, Mode, SampledMode
from mixlm.evaluation.reading import Rows
from mixlm.network import Net
from mixlm.parallel.mesh import batch_sharding
from mixlm.perf.memory import Need, check_fits, host_bytes
from mixlm.reports.metrics import progress_bar

BUCKET = 8  # Ours: of the lengths 4 to 16 that most test sentences have, two or three shapes.


@dataclass(frozen=True, eq=False)
class Sentences:
    """Sentences to score: tokens, and for each the length of its prefix, the number of its noise, and what it follows.

    `previous` is the token before each in its text, 0 (None: everywhere) where it begins one and is read after bos.
    """

    tokens: Sequence[Sequence[int]]
    prefixes: Int[np.ndarray, " N"]
    noise: Int[np.ndarray, " N"]
    previous: Int[np.ndarray, " N"] | None = None

    @property
    def lengths(self) -> Int[np.ndarray, " N"]:
        """Tokens of each sentence."""
        return np.asarray([len(tokens) for tokens in self.tokens], np.int64)


@dataclass(frozen=True, eq=False)
class Scores:
    """A log-probability for each sentence, in nats; for a diffusion bound also the estimate of each noise sample."""

    total: Float64[np.ndarray, " N"]
    samples: Float64[np.ndarray, "N S"] | None = None


@dataclass(eq=False)
class Scorer:
    """A network with its parameters; a mode's scores are kept for fused modes, which add them up.

    `batch_tokens` is the size of a batch, padding included; its rows are shared by the devices of the mesh.
    """

    module: nn.Module
    params: Any
    mesh: Mesh
    batch_tokens: int = 1024
    _found: dict[tuple[Mode, Sentences], Scores] = field(default_factory=dict)

    def __call__(self, mode: Mode | Fused, sentences: Sentences, name: str = "") -> Scores:
        """Scores every sentence, an impossible one -inf; raises UserError where a score is no number."""
        if isinstance(mode, Fused):
            return Scores(np.sum([self(part, sentences, name).total for part in mode.parts], axis=0))
        key = (mode, sentences)
        if key not in self._found:
            self._found[key] = self._score(mode, sentences, name)
        return self._found[key]

    def _score(self, mode: Mode, sentences: Sentences, name: str) -> Scores:
        lengths = sentences.lengths
        copies = mode.copies(lengths)
        rows = int(copies.sum())
        # Its value, its sentence and its number among the sentence's rows, sorted by length.
        need = Need(f"{rows:,} rows to be scored", 40 * rows, "lower NOISE_SAMPLES or SCORED_ROWS")
        check_fits(f"The mode {name or type(mode).__name__}", [need], host_bytes(), "this machine")
        values = np.zeros(rows)
        # The values of a batch are fetched while the next one is computed.
        late: list[tuple[Any, Any]] = []

        def fetch() -> None:
            places, found = late.pop()
            values[places] = np.asarray(found)[: len(places)]

        with progress_bar(total=len(values), desc=name, unit=" rows", unit_scale=True, leave=False) as bar:
            for places, batch in self._batches(sentences, lengths, copies):
                found = row_scores(self.module, mode, self.params, batch)
                if late:
                    fetch()
                late.append((places, found))
                bar.update(len(places))
            if late:
                fetch()
        if np.isnan(values).any():
            raise UserError(
                f"A score in the mode {name or type(mode).__name__} is NaN, so the network has diverged: score an"
                " earlier checkpoint, as RUN@STEP."
            )
        sentence = np.repeat(np.arange(len(lengths)), copies)
        total = np.bincount(sentence, weights=values, minlength=len(lengths)).astype(np.float64)
        if not isinstance(mode, SampledMode):
            return Scores(total)
        samples = np.zeros((len(lengths), mode.samples))
        samples[copies > 0] = values.reshape(-1, mode.samples) * mode.samples
        return Scores(total, samples)

    def _batches(
        self, sentences: Sentences, lengths: Int[np.ndarray, " N"], copies: Int[np.ndarray, " N"]
    ) -> Iterator[tuple[Int[np.ndarray, " R"], Rows]]:
        """Batches, each with the places of its rows, dummies left out, among all rows in the order of sentences."""
        padded = _padded(lengths, copies, self.batch_tokens)
        parts = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        put = partial(jax.device_put, device=batch_sharding(self.mesh))
        owner = np.repeat(np.arange(len(lengths)), copies)
        copy = np.arange(len(owner)) - np.repeat(np.cumsum(copies) - copies, copies)
        for length in np.unique(padded[copies > 0]):
            bucket = np.flatnonzero(padded[owner] == length)
            # A batch is no larger than its rows, rounded up so that few sizes are compiled.
            each = min(self.batch_tokens // int(length) // parts, 1 << (len(bucket) - 1).bit_length())
            size = max(each, 1) * parts
            for start in range(0, len(bucket), size):
                places = bucket[start : start + size]
                member, dummies = owner[places], (0, size - len(places))
                tokens = np.zeros((size, length), np.int32)
                for row, sentence in enumerate(member.tolist()):
                    tokens[row, : lengths[sentence]] = sentences.tokens[sentence]
                columns = [lengths[member], sentences.prefixes[member], copy[places], sentences.noise[member]]
                columns += [] if sentences.previous is None else [sentences.previous[member]]
                yield places, Rows(put(tokens), *(put(np.pad(column, dummies).astype(np.int32)) for column in columns))


def _padded(lengths: Int[np.ndarray, " N"], copies: Int[np.ndarray, " N"], batch_tokens: int) -> Int[np.ndarray, " N"]:
    """Padded length of each sentence; those that would not fill a batch join the next longer ones."""
    padded = -(-lengths // BUCKET) * BUCKET
    used = np.unique(padded[copies > 0])
    for length, longer in pairwise(used):
        if copies[padded == length].sum() * length < batch_tokens:
            padded[padded == length] = longer
    return padded


@partial(jax.jit, static_argnums=(0, 1))
def row_scores(module: nn.Module, mode: Mode, params: Any, rows: Rows) -> Float[Array, " B"]:
    """Each row's contribution to its sentence's log-probability."""
    return mode(Net(module, params), rows)
