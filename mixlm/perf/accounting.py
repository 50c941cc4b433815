"""Usage of a run by stage: supervised tokens and loss-weight sums of every term, FLOPs of every part."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mixlm.files import is_number

SPENT = "spent/"
# The named scope of the optimizer's update, in profiles and in FLOPs by part.
OPTIMIZER = "optimizer"
OTHER = "other"
# Metrics of a step that are summed over steps, and the name of the sum.
_ADDED = {"tokens": "tokens", "mass": "mass", "share": "steps"}
# JAX's scope of recomputation under jax.checkpoint.
_RECOMPUTED = "rematted_computation"


def part_of(scope: str, networks: tuple[str, ...]) -> str:
    """The part of a step that a product with this name stack belongs to.

    The outermost call of a network decides: its `logits` are NETWORK_head (the vocabulary's matrix), all else of it is
    NETWORK. Then come `optimizer` (such as Muon's products) and `other`. A gradient belongs where its product does.
    """
    if call := re.search(rf"\b({'|'.join(map(re.escape, networks))})\.(\w+)", scope):
        return f"{call[1]}_head" if call[2] == "logits" else call[1]
    return OPTIMIZER if OPTIMIZER in re.split(r"[/()]", scope) else OTHER


def flops_by_part(by_scope: Mapping[str, float], networks: tuple[str, ...]) -> dict[str, float]:
    """The FLOPs of `flops.flops_by_scope` added up by part; together the parts are the whole."""
    found: dict[str, float] = {}
    for scope, flops in by_scope.items():
        part = part_of(scope, networks)
        found[part] = found.get(part, 0.0) + flops
    return found


def mfu_flops(by_scope: Mapping[str, float], networks: tuple[str, ...]) -> float:
    """The FLOPs that model-FLOPs utilisation (MFU) counts: networks forward and backward, without optimizer.

    Recomputation under `jax.checkpoint` does not count (Chowdhery et al. 2022, appendix B).
    """
    needed = {scope: flops for scope, flops in by_scope.items() if _RECOMPUTED not in scope}
    parts = flops_by_part(needed, networks)
    return math.fsum(flops for part, flops in parts.items() if part not in (OPTIMIZER, OTHER))


class Usage:
    """Sums over the steps of a run, `spent/STAGE/...` in metrics.jsonl; a stage is named by its objective.

    `steps` of the stage; per term `tokens`, the positions that it supervised, and `mass`, the sum of their loss
    weights (the keys of 0.4); for objectives that share a batch also `steps`, the sum of their shares of the rows.
    """

    def __init__(self, sums: Mapping[str, Any] | None = None):
        self._sums = None if sums is None else dict(sums)

    @classmethod
    def from_note(cls, note: Mapping[str, Any]) -> "Usage":
        """The sums in a checkpoint's note; unknown where it has none or a text, since partial sums would mislead."""
        found = {name: value for name, value in note.items() if name.startswith(SPENT)}
        return cls(found if found and all(map(is_number, found.values())) else None)

    def add(self, stage: str, figures: Mapping[str, float]) -> None:
        """Adds the metrics of one step (see `training.step.TrainStep`)."""
        self.add_steps(stage, {name: (value,) for name, value in figures.items()})

    def add_steps(self, stage: str, columns: Mapping[str, Sequence[float]]) -> None:
        """Adds the metrics of several steps, one after the other, so that sums are rounded as those of `add`."""
        if self._sums is None:
            return
        steps = len(next(iter(columns.values())))
        self._add(f"{stage}/steps", (1,) * steps)
        for name, values in columns.items():
            term, _, figure = name.rpartition("/")
            if term and figure in _ADDED:
                # A batch of padding rows alone has no shares.
                counted = [value for value in values if not math.isnan(value)]
                if figure == "tokens":
                    counted = [int(value) if float(value).is_integer() else value for value in counted]
                self._add(f"{stage}/{term}/{_ADDED[figure]}", counted)

    def _add(self, name: str, values: Sequence[float]) -> None:
        if self._sums is not None and values:
            total = self._sums.get(SPENT + name, 0)
            for value in values:
                total += value
            self._sums[SPENT + name] = total

    def note(self) -> dict[str, Any]:
        """The sums, {} where they are unknown."""
        return dict(self._sums or {})

    def line(self, flops: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
        """The sums and `flops` (by stage and part), and each row objective's share of its stage's FLOPs."""
        found = self.note()
        for stage, parts in flops.items():
            total = math.fsum(parts.values())
            found[f"{SPENT}{stage}/flops"] = total
            found |= {f"{SPENT}{stage}/flops/{part}": value for part, value in parts.items() if value}
            shares = re.compile(rf"{re.escape(SPENT + stage)}/([^/]+)/steps")
            for name, value in self.note().items():
                if of_rows := shares.fullmatch(name):
                    found[f"{SPENT}{stage}/{of_rows[1]}/flops"] = total * value / found[f"{SPENT}{stage}/steps"]
        return found
