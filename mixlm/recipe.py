"""A run as plain values, and the checks that need neither data nor devices' memory."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import flax.linen as nn

from mixlm.curriculum import Curriculum
from mixlm.data.mixture import Dataset
from mixlm.errors import UserError, nearest
from mixlm.objectives.base import Objective
from mixlm.optim import Optimizer
from mixlm.partitioning import Partitioning
from mixlm.tokens import TokenIds

# What may differ between two starts of one run: how long it goes on (unless a schedule depends on that), how it is
# watched and where it computes; not what a step computes.
FREE = (
    "train_steps",
    "model_dir",
    "partitioning",
    "log_period",
    "eval_period",
    "eval_batches",
    "checkpoint_period",
    "keep",
)


@dataclass(frozen=True)
class Recipe:
    """What to train, on what, for how long; `gin/base.gin` binds every field to a macro.

    `lengths` are the feature lengths that the objectives must make ("inputs" and "targets", in tokens), `batch_size` is
    global and in rows; the fields that end in `_period` are in steps.
    """

    name: str
    networks: Mapping[str, nn.Module]
    curriculum: Curriculum
    dataset: Dataset
    tokens: TokenIds
    optimizer: Optimizer
    train_steps: int
    batch_size: int
    lengths: Mapping[str, int]
    microbatches: int = 1
    seed: int = 0
    partitioning: Partitioning = Partitioning()
    model_dir: str | None = None
    log_period: int = 10
    eval_period: int = 200
    eval_batches: int = 8
    checkpoint_period: int = 200
    keep: int = 2

    def __post_init__(self) -> None:
        for name in ("train_steps", "batch_size", "microbatches", "log_period", "eval_period", "eval_batches"):
            _positive(name, getattr(self, name))
        for name in ("checkpoint_period", "keep"):
            _positive(name, getattr(self, name))
        for name, length in self.lengths.items():
            _positive(f"TASK_FEATURE_LENGTHS[{name!r}]", length)
        if not 0 <= self.seed < 2**31:
            raise UserError(f"SEED must be from 0 to 2^31 - 1, got {self.seed}.")
        if self.batch_size % self.microbatches:
            raise UserError(f"{self.microbatches} MICROBATCHES do not divide a BATCH_SIZE of {self.batch_size} rows.")
        self.curriculum.spans(self.train_steps)
        _ = self.block_length
        self._check_names()
        self._check_networks()

    @property
    def folder(self) -> Path:
        """Where the run lives."""
        return Path(self.model_dir or f"runs/{self.name}")

    @property
    def block_length(self) -> int:
        """How many tokens of text every row takes, the same in all stages."""
        try:
            found = {objective.name: objective.block_length(self.lengths) for objective in self.curriculum.objectives}
        except KeyError as error:
            missing = str(error.args[0])
            raise UserError(
                f"TASK_FEATURE_LENGTHS has no {missing!r}, it has {sorted(self.lengths)}."
                f"{nearest(missing, self.lengths)}"
            ) from None
        if len(set(found.values())) > 1:
            raise UserError(f"The stages need rows of different lengths of text: {found}.")
        return next(iter(found.values()))

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The distinct objectives that are trained at all, in order of their first stage."""
        return tuple(dict.fromkeys(stage.objective for stage, _ in self.curriculum.spans(self.train_steps)))

    @property
    def modules(self) -> tuple[tuple[str, nn.Module], ...]:
        """The networks by name, hashable."""
        return tuple(sorted(self.networks.items()))

    def _check_names(self) -> None:
        names = [objective.name for objective in self.curriculum.objectives]
        for name in names:
            if names.count(name) > 1:
                raise UserError(
                    f"Two different objectives are named {name!r}, so their figures could not be told apart."
                )

    def _check_networks(self) -> None:
        for objective in self.curriculum.objectives:
            for name in objective.networks:
                if name not in self.networks:
                    raise UserError(
                        f"The objective {objective.name!r} trains a network {name!r}, and the recipe's networks are "
                        f"{sorted(self.networks)}.{nearest(name, self.networks)}"
                    )
        for name, module in self.networks.items():
            size = getattr(module, "vocab_size", self.tokens.vocab_size)
            if size < self.tokens.vocab_size:
                raise UserError(
                    f"The network {name!r} knows {size} tokens, and the vocabulary has {self.tokens.vocab_size} "
                    f"(VOCAB_SIZE)."
                )

    def identity(self) -> dict[str, str]:
        """What makes this run the one it is, as text: two starts on one folder must agree in all of it."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self) if field.name not in FREE}


def _positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{name.upper() if name.islower() else name} must be a whole number above 0, got {value!r}.")


def _plain(value: object) -> str:
    """A repr on one line; Linen prints its modules over many, with comments on lines of their own."""
    if isinstance(value, Mapping):
        value = dict(sorted(value.items()))
    return re.sub(r"\n\s*#[^\n]*|\s+", " ", repr(value)).strip()
