"""A mixture whose parts are tokens on the disk: its rows, its validation, its counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int32, Int64

from mixlm.data.dataset import PreparedData, Summary
from mixlm.data.loader.interleave import Mixed
from mixlm.data.loader.rates import Rates, Shares
from mixlm.data.sources.base import SPLITS, digest
from mixlm.data.vocabulary import Vocabulary

_READ = 2**40  # Ours: mixed frequencies are those of a text of so many tokens, so that whole numbers hold them.


@dataclass(frozen=True, eq=False)
class PreparedMixture:
    """The parts of a mixture, each with its tokens on the disk, and how they are mixed."""

    parts: tuple[PreparedData, ...]
    epochs: tuple[int, ...] | None
    shares: tuple[Shares, ...]
    starts: tuple[int, ...]

    @property
    def vocabulary(self) -> Vocabulary:
        """The one vocabulary of all parts."""
        return self.parts[0].vocabulary

    @property
    def name(self) -> str:
        """The parts' names together."""
        return " + ".join(part.name for part in self.parts)

    def train(self, block_length: int, seed: int, epochs: None = None) -> Mixed:
        """The parts' unique sets in blocks, mixed; where the parts have epochs, each ends with padding."""
        counts = self.epochs or (None,) * len(self.parts)
        walks = tuple(part.train(block_length, seed, count) for part, count in zip(self.parts, counts))
        return Mixed(tuple(part.name for part in self.parts), walks, self._rates(block_length), seed)

    def rows_of(self, block_length: int, epochs: None = None) -> int | None:
        """The number of rows of the parts' epochs, each part's last one padded; None where there are rates."""
        return None if self.epochs is None else sum(self._rows(block_length))

    def _rows(self, block_length: int) -> list[int]:
        rows = [part.rows_of(block_length, count) for part, count in zip(self.parts, self.epochs or ())]
        return [count for count in rows if count is not None]

    def _rates(self, block_length: int) -> Rates:
        if self.epochs is None:
            return Rates(self.shares, self.starts)
        # In rows, not tokens: then every count is exact once all rows have been read.
        return Rates((Shares(tuple(self._rows(block_length))),))

    def validation_size(self, block_length: int) -> int:
        """The largest number of validation rows by the last rates that repeats no block of any part."""
        shares = self._rates(block_length).shares[-1]
        sizes = [
            part.validation_size(block_length) if weight else 0 for part, weight in zip(self.parts, shares.weights)
        ]
        low, high = 1, sum(sizes)
        while low < high:
            middle = (low + high + 1) // 2
            fits = all(count <= size for count, size in zip(shares.counts(middle), sizes))
            low, high = (middle, high) if fits else (low, middle - 1)
        return low

    def validation_rows(self, block_length: int, count: int, before: int = 0) -> Int32[np.ndarray, "count L"]:
        """`count` blocks by the last rates, each part's spread evenly over its validation split."""
        shares = self._rates(block_length).shares[-1]
        rows = {
            source: self.parts[source].validation_rows(block_length, wanted, before)
            for source, wanted in enumerate(shares.counts(count))
            if wanted
        }
        return _mixed_rows(shares, rows, count)

    def validation_bytes(self, block_length: int, count: int) -> Int32[np.ndarray, "count L"] | None:
        """The bytes of text that each token of `validation_rows` covers; None where a part cannot tell."""
        shares = self._rates(block_length).shares[-1]
        rows: dict[int, np.ndarray] = {}
        for source, wanted in enumerate(shares.counts(count)):
            sizes = self.parts[source].validation_bytes(block_length, wanted) if wanted else None
            if wanted and sizes is None:
                return None
            if sizes is not None:
                rows[source] = sizes
        return _mixed_rows(shares, rows, count)

    def token_counts(self) -> Int64[np.ndarray, " V"]:
        """The frequency of each token in a long text that mixes the parts' train splits by the last rates."""
        weights: Sequence[float] = self.shares[-1].weights if self.shares else ()
        if self.epochs is not None:
            weights = [part.summary.unique_tokens * count for part, count in zip(self.parts, self.epochs)]
        found = [part.token_counts() for part in self.parts]
        mixed = sum(weight * counts / max(counts.sum(), 1) for weight, counts in zip(weights, found))
        return np.round(mixed * (_READ / sum(weights))).astype(np.int64)

    @cached_property
    def summary(self) -> Summary:
        """The parts' counts added up, and one fingerprint of all."""
        parts = [part.summary for part in self.parts]
        return Summary(
            name=self.name,
            documents={split: sum(part.documents[split] for part in parts) for split in SPLITS},
            tokens={split: sum(part.tokens[split] for part in parts) for split in SPLITS},
            text_bytes={split: sum(part.text_bytes[split] for part in parts) for split in SPLITS},
            unique_documents=sum(part.unique_documents for part in parts),
            unique_tokens=sum(part.unique_tokens for part in parts),
            vocab_size=parts[0].vocab_size,
            fingerprint=digest([part.fingerprint for part in parts]),
        )


def _mixed_rows(shares: Shares, rows: Mapping[int, np.ndarray], count: int) -> Int32[np.ndarray, "count L"]:
    """`count` rows by `shares`, of the rows of each source."""
    return np.stack([rows[source][index] for source, index in map(shares.at, range(count))])
