"""`Recipe`: everything that defines a training run, as plain values that are checked before any data are read."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import flax.linen as nn

from mixlm.data.dataset import Dataset
from mixlm.data.judged import TaskMetrics
from mixlm.data.mixture import Mixture
from mixlm.data.words import check_counts
from mixlm.errors import UserError
from mixlm.network import LayeredNetwork
from mixlm.objectives.base import Objective, any_reads_previous
from mixlm.objectives.curriculum import Blocks, Curriculum
from mixlm.objectives.requirements import block_length, check_names, check_networks, check_packing, check_rows
from mixlm.optim.optimizer import Optimizer
from mixlm.parallel.mesh import Partitioning
from mixlm.paths import RunRef
from mixlm.recipe.checks import check_kinds, check_length, check_numbers, check_stages
from mixlm.reports.best import HIGHEST, Best
from mixlm.reports.curves import check_axes
from mixlm.reports.trackers.chosen import DEFAULT
from mixlm.reports.trackers.chosen import check_names as check_trackers
from mixlm.schedules import over, scaled_down, scaled_to
from mixlm.tokens import TokenIds
from mixlm.values import added, check_positive, identity, setting

NO_LENGTH = "The length of an epoch depends on the text, which is not here: give TRAIN_STEPS."


@dataclass(frozen=True)
class Recipe:
    """Networks, objectives, data, optimizer and length of a run; `gin/base.gin` binds every field to a macro.

    `lengths` are the feature lengths that the objectives must make ("inputs" and "targets", in tokens), `batch_size` is
    global and in rows; the fields that end in `_period` are in steps. The run is `train_steps` long, or so many
    `epochs` of the data (of each part, where a mixture's parts have epochs), after which the last batch is padded; or
    both are None, where the curriculum is made of blocks of epochs. A run begins with the parameters of the run (RUN or
    RUN@STEP), the T5X checkpoint or the safetensors file in `init_from`, if given; with `init_optimizer` it goes on
    from that step, with the optimizer's state. Beside the newest `keep` checkpoints, the `keep_best` with the best
    `best_metric` of validation (see `best`), that of every `keep_period`-th step and, by name, those at the first steps
    by which the words in `keep_at_words` were read (see `WordsSeen`) are kept. After `patience` validations without a
    better one, the run ends. Supervised tasks are validated by their own metrics, as
    `metrics` says. Validation reports the terms of `validation`, by default those of the trained objectives, and
    the plain cross-entropy of each band of token frequencies: `frequency_bands` are shares of the training tokens,
    from the most frequent on. `curves` are the x axes of curves.png. `config` is the gin text that built the
    recipe, empty for one built in Python; it is no argument and no part of the value. What is `Scaled` becomes a
    number as soon as the length is known, and `scaled` says which of them a short run scaled down.
    """

    name: str
    networks: Mapping[str, nn.Module]
    curriculum: Curriculum | Blocks
    dataset: Dataset | Mixture
    tokens: TokenIds
    optimizer: Optimizer
    train_steps: int | None = field(metadata={"identity": False})  # but see `identity` for blocks of epochs
    batch_size: int
    lengths: Mapping[str, int]
    microbatches: int = 1
    seed: int = 0
    partitioning: Partitioning = setting(Partitioning())
    model_dir: str | None = setting(None)
    log_period: int = setting(10)
    eval_period: int = setting(200)
    eval_batches: int = setting(8)
    checkpoint_period: int = setting(200)
    keep: int = setting(2)
    best_metric: str | None = setting(None)
    keep_best: int = setting(1)
    keep_period: int | None = setting(None)
    keep_at_words: tuple[float, ...] = setting(())
    init_from: str | None = None
    init_optimizer: bool = added(False, repr=True)
    validation: tuple[Objective, ...] = setting(())
    frequency_bands: tuple[float, ...] = setting(())
    epochs: int | None = added(None, repr=True)
    curves: tuple[str, ...] = setting(("step", "flops"))
    trackers: tuple[str, ...] = setting(DEFAULT)
    best_is: str | None = setting(None)
    patience: int | None = setting(None)
    metrics: TaskMetrics = setting(TaskMetrics())
    config: str = field(default="", init=False, repr=False, compare=False, metadata={"identity": False})
    scaled: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False, metadata={"identity": False})

    def __post_init__(self) -> None:
        for name in ("curves", "trackers", "keep_at_words"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # gin writes lists
        check_kinds(self)
        check_numbers(self)
        check_counts(self.keep_at_words, self.dataset)
        check_length(self)
        if self.train_steps is not None:
            _scale_down(self, self.train_steps)
        check_stages(self)
        check_rows(self.declared, self.dataset.pairs, self.lengths)
        check_packing(self.declared, getattr(self.dataset, "packed", False))
        if self.dataset.pairs is not None and isinstance(self.curriculum, Blocks):
            raise UserError("Blocks of epochs count text, and the data's rows are pairs: give stages in steps.")
        _ = self.block_length
        check_names(self.curriculum.distinct, self.validation)
        check_networks(self.declared, self.networks, self.tokens.vocab_size)
        check_axes(self.curves)
        check_trackers(self.trackers)
        _ = self.ref, RunRef.parse(self.init_from or "", "INIT_FROM")  # A URL is refused before anything is written.

    def with_config(self, text: str) -> "Recipe":
        """The same recipe, with `text` as the gin text that builds it, which a run keeps as its config.gin."""
        return _changed(self, config=text)

    @property
    def ref(self) -> RunRef:
        """The run's folder, and the checkpoint that is meant where that matters."""
        return RunRef.parse(self.model_dir or f"runs/{self.name}", "MODEL_DIR")

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.ref.folder

    @property
    def best(self) -> Best | None:
        """The figure by which a checkpoint is best, None where none was named.

        The highest is best of a task's metric and of an accuracy, else the lowest, unless `best_is` says it.
        """
        if self.best_metric is None:
            return None
        first, _, last = self.best_metric.rpartition("/")
        parts = self.dataset.parts if isinstance(self.dataset, Mixture) else (self.dataset,)
        tasks = () if self.dataset.pairs is None else tuple(part.task.name for part in parts)
        rises = last == "accuracy" or any(f"{first}/".startswith(f"{name}/") for name in tasks)
        return Best(self.best_metric, rises if self.best_is is None else self.best_is == HIGHEST)

    @property
    def block_length(self) -> int:
        """Tokens of text in every row, the same in all stages."""
        return block_length(self.declared, self.lengths)

    @property
    def ends_with_data(self) -> bool:
        """True where the run is as long as a number of epochs of its data, with its last batch padded."""
        return self.epochs is not None or self.epochs_of_parts is not None

    @property
    def epochs_of_parts(self) -> tuple[int, ...] | None:
        """The epochs of each part of a mixture, where they bound the run."""
        return self.dataset.epochs if isinstance(self.dataset, Mixture) else None

    def settled(self, unique_tokens: int | None, rows: int | None = None) -> "Recipe":
        """The recipe with every stage and schedule in steps, now that the size of an epoch is known.

        A run that ends with its data takes `rows` rows, in whole batches. Epochs of blocks are those of the data where
        nothing else bounds the run, else equal shares of the steps. Raises UserError where the size of an epoch is
        needed and unknown.
        """
        curriculum, steps = self.curriculum, self.train_steps
        if self.ends_with_data and steps is None:
            if rows is None:
                raise UserError(NO_LENGTH)
            steps = -(-rows // self.batch_size)
        if isinstance(curriculum, Blocks):
            if steps is None and unique_tokens is None:
                raise UserError(NO_LENGTH)
            rows = self.batch_size * self.block_length
            epoch_steps = unique_tokens / rows if steps is None and unique_tokens else (steps or 0) / curriculum.epochs
            steps = round(curriculum.epochs * epoch_steps)
            curriculum = curriculum.curriculum(epoch_steps)
        # Not by replace: the epochs stay beside the steps that they are, and nobody else may give both.
        settled = _changed(self, train_steps=steps, curriculum=curriculum)
        steps = settled.steps
        _scale_down(settled, steps)
        curriculum = settled.curriculum
        optimizer = replace(settled.optimizer, learning_rate=over(settled.optimizer.learning_rate, steps))
        schedules = {"curriculum": over(curriculum, steps), "validation": over(settled.validation, steps)}
        settled = _changed(settled, optimizer=optimizer, **schedules)
        check_stages(settled)
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
        """The objectives that validation reports."""
        return self.validation or self.objectives

    @property
    def declared(self) -> tuple[Objective, ...]:
        """Every distinct objective that the recipe names, trained or reported."""
        return tuple(dict.fromkeys((*self.curriculum.distinct, *self.validation)))

    @property
    def before(self) -> int:
        """Tokens before each row that the batches hold as well: 1 where an objective reads them, else 0."""
        return int(any_reads_previous(self.declared))

    @property
    def modules(self) -> tuple[tuple[str, nn.Module], ...]:
        """The networks by name, hashable."""
        return tuple(sorted(self.networks.items()))

    def identity(self) -> dict[str, str]:
        """Everything that makes two starts in one folder the same run, as text: both must agree in all of it.

        A field's metadata say whether it belongs there. The length does where blocks of epochs share it out, and so do
        the names of networks with stacked layers, whose state has other arrays. Fields that were `added` to the values
        below the recipe are named as CLASS.FIELD where any differs from its default.
        """
        found = identity(self, train_steps=isinstance(self.curriculum, Blocks))
        layered = {name: module for name, module in self.modules if isinstance(module, LayeredNetwork)}
        scanned = [name for name, module in layered.items() if module.execution.scan]
        return found | ({"scan_layers": ", ".join(scanned)} if scanned else {})


def microbatches_of(batch_size: int, rows: int) -> int:
    """The fewest microbatches of equal size that hold at most `rows` rows each, for MICROBATCHES."""
    check_positive("batch_size", batch_size)
    check_positive("rows", rows)
    return next(count for count in range(-(-batch_size // rows), batch_size + 1) if batch_size % count == 0)


def _changed(recipe: Recipe, **values: Any) -> Recipe:
    """A copy with other values of some fields, which are not checked again."""
    twin = copy.copy(recipe)
    for name, value in values.items():
        object.__setattr__(twin, name, value)
    return twin


def _scale_down(recipe: Recipe, steps: int) -> None:
    """Gives everything `Scaled` its number in a run of `steps`, in place, and notes what that makes smaller."""
    for name in ("curriculum", "optimizer", "validation"):
        value = getattr(recipe, name)
        # A schedule may stand in several objectives: it is said once.
        said = dict.fromkeys((*recipe.scaled, *(scaled_down(value, steps) if name != "validation" else ())))
        object.__setattr__(recipe, "scaled", tuple(said))
        object.__setattr__(recipe, name, scaled_to(value, steps))
