"""The best checkpoint of a run: a figure of validation, and which of two values of it is the better one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

HIGHEST, LOWEST = "highest", "lowest"


@dataclass(frozen=True)
class Best:
    """A figure of validation of which the lowest, or the highest, is best; one that is not finite never is."""

    metric: str
    highest: bool = False

    def better(self, value: float, than: float) -> bool:
        """True where `value` is strictly better; any finite value is better than one that is not."""
        return self.cost(value) < self.cost(than)

    def stalled(self, values: Sequence[float], patience: int) -> bool:
        """True where none of the last `patience` of these values in a row is better than the best before them."""
        if len(values) <= patience:
            return False
        before = min(self.cost(value) for value in values[:-patience])
        return not any(self.cost(value) < before for value in values[-patience:])

    def cost(self, value: float) -> float:
        """The value with a sign by which the lowest is best, infinite where it is not finite."""
        return math.inf if not math.isfinite(value) else -value if self.highest else value
