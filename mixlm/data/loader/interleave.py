"""Several sources walked together: which source a row has is exact in its counts and a function of the step."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int, Int32

from mixlm.data.loader.epochs import Repeated
from mixlm.data.loader.pairs import Pairs
from mixlm.data.loader.permutation import round_keys, shuffled
from mixlm.data.loader.rates import Rates

# Ours: what a random number is for, beside the uses in repeat.py.
_ROWS_OF_STEP = 3


@dataclass(frozen=True, eq=False)
class Mixed:
    """Rows of several sources in proportion to `rates`, each source walked by its own `Repeated` or `Pairs`.

    The rows of a run are numbered; the rates say which source each has, and how many rows that source had before is
    the block that it gives. The rows of a step change places by (seed, step), so that no source keeps to one process.
    """

    names: tuple[str, ...]
    parts: tuple[Repeated | Pairs, ...]
    rates: Rates
    seed: int

    @property
    def block_length(self) -> int:
        """Tokens in a row, the same in every source."""
        return self.parts[0].block_length

    @property
    def num_tokens(self) -> int:
        """Tokens of all unique sets together."""
        return sum(part.num_tokens for part in self.parts)

    @property
    def num_documents(self) -> int:
        """Documents of all unique sets together."""
        return sum(part.num_documents for part in self.parts)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the sources' sets in their order."""
        return hashlib.sha256("".join(part.fingerprint for part in self.parts).encode()).hexdigest()

    def sources(self, step: int, batch_size: int, places: Int[np.ndarray, " R"]) -> list[tuple[int, int]]:
        """For some rows of a step: the number of the source and of its block."""
        stage = self.rates.stage(step)
        shares, start = self.rates.shares[stage], self.rates.starts[stage]
        before, keys = self.rates.counts(start, batch_size), round_keys(self.seed, _ROWS_OF_STEP, step)
        found = []
        for place in places:
            source, block = shares.at((step - start) * batch_size + shuffled(int(place), batch_size, keys))
            found.append((source, before[source] + block))
        return found

    def rows(
        self, step: int, batch_size: int, places: Int[np.ndarray, " R"], before: int = 0
    ) -> Int32[np.ndarray, "R L"]:
        """The tokens of some rows of a step."""
        rows = [self.parts[source].block(block, before) for source, block in self.sources(step, batch_size, places)]
        return np.stack(rows) if rows else np.empty((0, before + self.block_length), np.int32)

    def counts(self, steps: int, batch_size: int) -> list[int]:
        """The number of rows from each source after `steps` steps."""
        return self.rates.counts(steps, batch_size)

    def figures(self, steps: int, batch_size: int) -> dict[str, float | int | str]:
        """Progress after `steps` steps: tokens and epochs in all, and rows, epochs and set of each source."""
        counts = self.counts(steps, batch_size)
        tokens = [part.tokens_in(rows) for part, rows in zip(self.parts, counts)]
        found: dict[str, float | int | str] = {
            "tokens": sum(tokens),
            "epoch": sum(tokens) / self.num_tokens,
            "set": self.fingerprint[:12],
        }
        for name, part, rows, seen in zip(self.names, self.parts, counts, tokens):
            found |= {
                f"data/{name}/rows": rows,
                f"data/{name}/epoch": seen / part.num_tokens,
                f"data/{name}/set": part.fingerprint[:12],
            }
        return found
