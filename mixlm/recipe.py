"""A run as plain values, and the checks that need neither data nor devices' memory."""

import copy
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import flax.linen as nn

from mixlm.data.dataset import Dataset
from mixlm.data.mixture import Mixture
from mixlm.errors import UserError, nearest
from mixlm.network import FixedVocabulary, LayeredNetwork
from mixlm.objectives.base import Objective
from mixlm.objectives.curriculum import Blocks, Curriculum
from mixlm.optim.optimizer import Optimizer
from mixlm.parallel.mesh import Partitioning
from mixlm.paths import RunRef
from mixlm.reports.curves import AXES
from mixlm.schedules import over
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
    "validation",
    "frequency_bands",
    "checkpoint_period",
    "keep",
    "best_metric",
    "keep_best",
    "keep_period",
    "curves",
)
# What runs did not have from the first: left out of their identity where it has its default, so that they go on.
ADDED = ("init_optimizer", "epochs")


@dataclass(frozen=True)
class Recipe:
    """What to train, on what, for how long; `gin/base.gin` binds every field to a macro.

    `lengths` are the feature lengths that the objectives must make ("inputs" and "targets", in tokens), `batch_size` is
    global and in rows; the fields that end in `_period` are in steps. The run is `train_steps` long, or so many
    `epochs` of the data (of each part, where a mixture's parts have epochs), after which the last batch is padded; or
    both are None, where the curriculum is made of blocks of epochs. A run begins with the parameters of the run (RUN or
    RUN@STEP) or T5X checkpoint in `init_from`, if given; with `init_optimizer` it goes on from that step, with the
    optimizer's state. Beside the newest `keep` checkpoints stay the `keep_best` with the lowest `best_metric` of
    validation, and that of every `keep_period`-th step. Validation reports the terms of `validation`, by default those
    of the trained objectives, and the plain cross-entropy of each band of token frequencies: `frequency_bands` are
    shares of the training tokens, from the most frequent on. `curves` are what curves.png is drawn against. `config` is
    the gin text that built the recipe, empty for one built in Python; it is no argument and no part of the value.
    """

    name: str
    networks: Mapping[str, nn.Module]
    curriculum: Curriculum | Blocks
    dataset: Dataset | Mixture
    tokens: TokenIds
    optimizer: Optimizer
    train_steps: int | None
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
    best_metric: str | None = None
    keep_best: int = 1
    keep_period: int | None = None
    init_from: str | None = None
    init_optimizer: bool = False
    validation: tuple[Objective, ...] = ()
    frequency_bands: tuple[float, ...] = ()
    epochs: int | None = None
    curves: tuple[str, ...] = ("step", "flops")
    config: str = field(default="", init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("batch_size", "microbatches", "log_period", "eval_period", "eval_batches"):
            _positive(name, getattr(self, name))
        for name in ("checkpoint_period", "keep", "keep_best"):
            _positive(name, getattr(self, name))
        self._check_keep_period()
        self._check_length()
        for name, length in self.lengths.items():
            _positive(f"TASK_FEATURE_LENGTHS[{name!r}]", length)
        if not 0 <= self.seed < 2**31:
            raise UserError(f"SEED must be from 0 to 2^31 - 1, got {self.seed}.")
        if self.batch_size % self.microbatches:
            raise UserError(f"{self.microbatches} MICROBATCHES do not divide a BATCH_SIZE of {self.batch_size} rows.")
        self._check_stages()
        self._check_pairs()
        if self.frequency_bands and (min(self.frequency_bands) <= 0 or abs(sum(self.frequency_bands) - 1) > 1e-6):
            raise UserError(f"FREQUENCY_BANDS = {self.frequency_bands} must be positive shares with a sum of 1.")
        _ = self.block_length
        self._check_names()
        self._check_networks()
        self._check_curves()

    def with_config(self, text: str) -> "Recipe":
        """The same recipe, with `text` as the gin text that builds it, which a run keeps as its config.gin."""
        twin = copy.copy(self)
        object.__setattr__(twin, "config", text)
        return twin

    @property
    def ref(self) -> RunRef:
        """Where the run lives, and which of its checkpoints is meant where that matters."""
        return RunRef.parse(self.model_dir or f"runs/{self.name}")

    @property
    def folder(self) -> Path:
        """Where the run lives."""
        return self.ref.folder

    @property
    def block_length(self) -> int:
        """How many tokens of text every row takes, the same in all stages."""
        try:
            found = {objective.name: objective.block_length(self.lengths) for objective in self.declared}
        except KeyError as error:
            missing = str(error.args[0])
            raise UserError(
                f"TASK_FEATURE_LENGTHS has no {missing!r}, it has {sorted(self.lengths)}."
                f"{nearest(missing, self.lengths)}"
            ) from None
        if len(set(found.values())) > 1:
            raise UserError(f"The objectives need rows of different lengths of text: {found}.")
        return next(iter(found.values()))

    @property
    def ends_with_data(self) -> bool:
        """Whether the run is as long as so many epochs of its data, and its last batch padded."""
        return self.epochs is not None or self._epochs_of_parts is not None

    @property
    def _epochs_of_parts(self) -> tuple[int, ...] | None:
        return self.dataset.epochs if isinstance(self.dataset, Mixture) else None

    def settled(self, unique_tokens: int | None, rows: int | None = None) -> "Recipe":
        """The recipe with every stage and schedule in steps, now that the size of an epoch is known.

        A run that ends with its data takes `rows` rows, in whole batches. Epochs of blocks are those of the data where
        nothing else says how long the run is, else equal shares of the steps. UserError where nothing says how long an
        epoch is.
        """
        curriculum, steps = self.curriculum, self.train_steps
        if self.ends_with_data and steps is None:
            if rows is None:
                raise UserError("How long an epoch is depends on the text, which is not here: give TRAIN_STEPS.")
            steps = -(-rows // self.batch_size)
        if isinstance(curriculum, Blocks):
            if steps is None and unique_tokens is None:
                raise UserError("How long an epoch is depends on the text, which is not here: give TRAIN_STEPS.")
            rows = self.batch_size * self.block_length
            epoch_steps = unique_tokens / rows if steps is None and unique_tokens else (steps or 0) / curriculum.epochs
            steps = round(curriculum.epochs * epoch_steps)
            curriculum = curriculum.curriculum(epoch_steps)
        settled = copy.copy(self)
        # Not by replace: the epochs stay beside the steps that they are, and nobody else may give both.
        object.__setattr__(settled, "train_steps", steps)
        rate = over(self.optimizer.learning_rate, settled.steps)
        object.__setattr__(settled, "optimizer", replace(self.optimizer, learning_rate=rate))
        object.__setattr__(settled, "curriculum", over(curriculum, settled.steps))
        object.__setattr__(settled, "validation", over(self.validation, settled.steps))
        settled._check_stages()
        return settled

    @property
    def steps(self) -> int:
        """The length of the run; UserError before it is settled."""
        if self.train_steps is None:
            raise UserError("TRAIN_STEPS is not known before the text is read.")
        return self.train_steps

    @property
    def stages(self) -> Curriculum:
        """The curriculum in steps; UserError before it is settled."""
        if isinstance(self.curriculum, Blocks):
            raise UserError("The stages are not known in steps before the text is read.")
        return self.curriculum

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The distinct objectives that are trained at all, in order of their first stage."""
        return tuple(dict.fromkeys(stage.objective for stage, _ in self.stages.spans(self.steps)))

    @property
    def validated(self) -> tuple[Objective, ...]:
        """What validation reports."""
        return self.validation or self.objectives

    @property
    def declared(self) -> tuple[Objective, ...]:
        """Every objective that the recipe names, trained or reported."""
        stages = self.curriculum.objectives
        trained = tuple(stages.values()) if isinstance(stages, Mapping) else stages
        return tuple(dict.fromkeys((*trained, *self.validation)))

    @property
    def modules(self) -> tuple[tuple[str, nn.Module], ...]:
        """The networks by name, hashable."""
        return tuple(sorted(self.networks.items()))

    def _check_length(self) -> None:
        both = self.train_steps is not None
        if self.epochs is not None:
            _positive("epochs", self.epochs)
            if isinstance(self.dataset, Mixture):
                raise UserError(f"EPOCHS = {self.epochs} are one text's; in a mixture each part has its own epochs.")
        if self.ends_with_data and both:
            epochs = self._epochs_of_parts if self.epochs is None else self.epochs
            raise UserError(
                f"TRAIN_STEPS = {self.train_steps} and EPOCHS = {epochs} both say how long the run is: give one of "
                "them, such as --gin.TRAIN_STEPS=None."
            )
        if both or (isinstance(self.curriculum, Curriculum) and not self.ends_with_data):
            _positive("train_steps", self.train_steps)

    def _check_stages(self) -> None:
        if self.train_steps is None:
            return
        if isinstance(self.curriculum, Curriculum):
            self.curriculum.spans(self.train_steps)
        starts = self.dataset.starts if isinstance(self.dataset, Mixture) else ()
        if any(start >= self.train_steps for start in starts):
            raise UserError(f"RATE_STARTS = {starts} go past the last of {self.train_steps} steps (TRAIN_STEPS).")

    def _check_pairs(self) -> None:
        """Rows of pairs and objectives that read them go together; an objective says so in an attribute `pairs`."""
        lengths = self.dataset.pairs
        for objective in self.declared:
            reads = getattr(objective, "pairs", False)
            if lengths is not None and not reads:
                raise UserError(
                    f"The objective {objective.name!r} reads text, and the data's rows are pairs of inputs and targets."
                )
            if lengths is None and reads:
                raise UserError(
                    f"The objective {objective.name!r} reads pairs of inputs and targets, and the data's rows are "
                    "text: bind `pairs` of the data to TASK_FEATURE_LENGTHS, as objectives/seq2seq.gin does."
                )
        if lengths is not None and dict(lengths) != dict(self.lengths):
            raise UserError(f"The data's pairs have lengths {dict(lengths)}, and TASK_FEATURE_LENGTHS {self.lengths}.")
        if lengths is not None and isinstance(self.curriculum, Blocks):
            raise UserError(
                "Blocks of epochs are counted in text, and the data's rows are pairs: give stages in steps."
            )

    def _check_names(self) -> None:
        stages = self.curriculum.objectives
        trained = list(dict.fromkeys(stages.values())) if isinstance(stages, Mapping) else stages
        for names in ([objective.name for objective in group] for group in (trained, self.validation)):
            for name in (name for name in names if names.count(name) > 1):
                raise UserError(
                    f"Two different objectives are named {name!r}, so their figures could not be told apart."
                )

    def _check_curves(self) -> None:
        object.__setattr__(self, "curves", tuple(self.curves))  # gin writes lists
        if not self.curves:
            raise UserError(f"CURVES names nothing to draw against; give some of {', '.join(AXES)}.")
        for name in self.curves:
            if name not in AXES:
                raise UserError(
                    f"CURVES = {self.curves} names {name!r}, and curves are drawn against {', '.join(AXES)}."
                    f"{nearest(str(name), AXES)}"
                )

    def _has_default(self, field: Field[Any]) -> bool:
        return bool(getattr(self, field.name) == field.default)

    def _check_keep_period(self) -> None:
        if self.keep_period is None:
            return
        _positive("keep_period", self.keep_period)
        if self.keep_period % self.checkpoint_period:
            nearest_one = max(round(self.keep_period / self.checkpoint_period), 1) * self.checkpoint_period
            raise UserError(
                f"KEEP_PERIOD = {self.keep_period} must be a multiple of CHECKPOINT_PERIOD = {self.checkpoint_period}, "
                f"such as {nearest_one}."
            )

    def check_best(self, reported: Sequence[str]) -> None:
        """Raises UserError where `best_metric` is no figure that validation reports, or never one of a checkpoint."""
        if self.best_metric is None:
            return
        if self.best_metric not in reported:
            raise UserError(
                f"BEST_METRIC = {self.best_metric!r} is no figure of this run's validation, which reports "
                f"{', '.join(name for name in reported if '/' not in name)}.{nearest(self.best_metric, reported)}"
            )
        meet = math.lcm(self.checkpoint_period, self.eval_period)
        if meet > self.steps:
            raise UserError(
                f"No checkpoint before the last would be validated, so BEST_METRIC has none to choose from: "
                f"CHECKPOINT_PERIOD = {self.checkpoint_period} and EVAL_PERIOD = {self.eval_period} first meet at step "
                f"{meet} of {self.steps}."
            )

    def _check_networks(self) -> None:
        for objective in self.declared:
            for name in objective.networks:
                if name not in self.networks:
                    raise UserError(
                        f"The objective {objective.name!r} trains a network {name!r}, and the recipe's networks are "
                        f"{sorted(self.networks)}.{nearest(name, self.networks)}"
                    )
        for name, module in self.networks.items():
            if isinstance(module, FixedVocabulary) and module.vocab_size < self.tokens.vocab_size:
                raise UserError(
                    f"The network {name!r} knows {module.vocab_size} tokens, and the vocabulary has "
                    f"{self.tokens.vocab_size} (VOCAB_SIZE)."
                )

    def identity(self) -> dict[str, str]:
        """What makes this run the one it is, as text: two starts on one folder must agree in all of it.

        The length is part of it where blocks of epochs share it out.
        """
        free = set(FREE) - ({"train_steps"} if isinstance(self.curriculum, Blocks) else set())
        free |= {
            field.name
            for field in fields(self)
            if not field.compare or (field.name in ADDED and self._has_default(field))
        }
        found = {field.name: _plain(getattr(self, field.name)) for field in fields(self) if field.name not in free}
        return found | self._scanned

    @property
    def _scanned(self) -> dict[str, str]:
        """Which networks stack their layers, so that a state of theirs has other arrays; {} where none does."""
        layered = [(name, module) for name, module in self.networks.items() if isinstance(module, LayeredNetwork)]
        scanned = sorted(name for name, module in layered if module.execution.scan)
        return {"scan_layers": ", ".join(scanned)} if scanned else {}


def _positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{name.upper() if name.islower() else name} must be a whole number above 0, got {value!r}.")


def _plain(value: object) -> str:
    """A repr on one line; Linen prints its modules over many, with comments on lines of their own."""
    if isinstance(value, Mapping):
        value = dict(sorted(value.items()))
    return re.sub(r"\n\s*#[^\n]*|\s+", " ", repr(value)).strip()
