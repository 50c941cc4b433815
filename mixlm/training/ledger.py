"""The ledger of a run while it trains: its lines of metrics.jsonl, what it has spent, and its checkpoints."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from mixlm.checkpoints.run_dir import RunDir
from mixlm.checkpoints.saving import Checkpoints
from mixlm.errors import UserError
from mixlm.parallel.processes import broadcast, is_main
from mixlm.perf.accounting import SPENT, Usage
from mixlm.recipe import Recipe
from mixlm.reports.journal import resume_examples
from mixlm.reports.metrics import VALIDATION, Recorder, read
from mixlm.reports.record import FILE, LOGGED
from mixlm.training.prepare import PreparedRun
from mixlm.training.yardsticks import yardsticks


class Ledger:
    """The records of a run on its way, of figures on the host: a line a logged step, a checkpoint with its note.

    `saved` is the step of the newest checkpoint.
    """

    def __init__(self, prepared: PreparedRun, folder: RunDir, checkpoints: Checkpoints) -> None:
        self.prepared, self.recipe, self.folder, self.checkpoints = prepared, prepared.recipe, folder, checkpoints
        self.saved: int | None = None
        self.validated: tuple[int, dict[str, float]] = (0, {})  # the step that was validated last, and its figures
        self.spent = Usage({})
        self.chosen: list[float] = []  # the figure of BEST_METRIC at every validation
        self.recorder: Recorder | None = None

    def begin(self, begun: int, note: Mapping[str, Any], say: Callable[[str], None], opened: ExitStack) -> None:
        """Opens metrics.jsonl for a run that is `begun` steps old; `note` is that of the checkpoint, if it has one."""
        self.saved = self.checkpoints.latest()
        self.chosen = validated_figures(self.recipe, self.folder, begun)
        self.spent = Usage.from_note(note) if begun else Usage({})
        if begun and not self.spent.note() and any(name.startswith(SPENT) for name in note):
            say(f"The note of the checkpoint of step {begun} is damaged, so what was spent until then is unknown.")
        if is_main():
            resume_examples(self.folder.path, begun)
            settings = self.recipe.identity() | self.prepared.fingerprints
            recorder = Recorder(self.folder.path, begun, self.recipe.trackers, settings, say)
            self.recorder = opened.enter_context(recorder)

    def is_logged(self, done: int) -> bool:
        """True for the first step, the last one and every LOG_PERIOD-th."""
        return done == 1 or done % self.recipe.log_period == 0 or done == self.recipe.steps

    def is_validated(self, done: int) -> bool:
        """True for the last step and every EVAL_PERIOD-th."""
        return done == self.recipe.steps or done % self.recipe.eval_period == 0

    def is_saved(self, done: int) -> bool:
        """True for the last step, every CHECKPOINT_PERIOD-th, and those whose checkpoints have names."""
        periodic = done == self.recipe.steps or done % self.recipe.checkpoint_period == 0
        return periodic or done in self.prepared.names

    def is_stalled(self) -> bool:
        """True where the last validations of PATIENCE found no better BEST_METRIC."""
        return is_stalled(self.recipe, self.chosen)

    def add(self, done: int, figures: Mapping[str, float]) -> None:
        """Counts a step; raises UserError where its loss or gradient is not finite."""
        if not (math.isfinite(figures["loss"]) and math.isfinite(figures["grad_norm"])):
            raise UserError(
                f"The loss of step {done} is not finite (loss {figures['loss']}, gradient norm "
                f"{figures['grad_norm']}); {self.kept()}."
            )
        self.spent.add(self.stage(done), figures)

    def kept(self) -> str:
        """The part of a sentence that names the last whole checkpoint."""
        return last_checkpoint(self.saved, self.folder)

    def add_steps(self, done: int, columns: Mapping[str, Sequence[float]]) -> None:
        """Counts the steps of one stage up to `done`, all of them finite."""
        self.spent.add_steps(self.stage(done), columns)

    def stage(self, done: int) -> str:
        """The name of the objective of a step."""
        return self.recipe.stages.at(done - 1).objective.name

    def line(self, done: int, figures: Mapping[str, float], since: int, rate: float) -> dict[str, Any]:
        """A step's metrics, data and FLOPs; `rate` are the steps per second since step `since`."""
        top = ("loss", "learning_rate", "grad_norm")
        line: dict[str, Any] = {name: figures[name] for name in top}
        # A term that no row of the step was drawn for is NaN, and left out.
        line |= {f"train/{name}": value for name, value in figures.items() if name not in top and value == value}
        return {
            **line,
            **self._speed(done, since, rate),
            **self.prepared.train_blocks.figures(done, self.recipe.batch_size),
            "flops": self.prepared.flops_until(done),
            **self.spent.line(self.prepared.flops_by_stage(done)),
        }

    def _speed(self, done: int, since: int, rate: float) -> dict[str, float]:
        """Tokens per second since the last line, and the model-FLOPs utilisation (MFU).

        MFU is the share of the devices' peak FLOP/s (see `accounting.mfu_flops`); left out where the peak is not known.
        """
        prepared, peak = self.prepared, self.prepared.peak_flops
        found = {"tokens_per_second": rate * self.recipe.batch_size * self.recipe.block_length}
        if peak is not None and done > since:
            flops = prepared.model_flops_until(done) - prepared.model_flops_until(since)
            found["mfu"] = rate * flops / (done - since) / peak
        return found

    def write(self, done: int, line: Mapping[str, Any], last: bool = True) -> None:
        """Appends a line, with figures of validation where it has some and, at the last step, their yardsticks.

        For `last` see `Recorder.write`.
        """
        found = {name.removeprefix(VALIDATION): value for name, value in line.items() if name.startswith(VALIDATION)}
        if found:
            self.validated = done, found
            self.chosen += [found[name] for name in (self.recipe.best_metric,) if name in found]
        if self.recorder is not None:
            ends = done == self.recipe.steps and found
            line = {**line, **yardsticks(self.prepared, line)} if ends else line
            self.recorder.write(done, self.stage(done), line, last)

    def save(self, done: int, state: Any) -> None:
        """Begins to save in the background; returns once the state is copied."""
        validated, figures = self.validated
        note = self.prepared.train_blocks.figures(done, self.recipe.batch_size) | self.spent.note()
        if self.recorder is not None:
            note[LOGGED] = self.recorder.lines
        found = figures if validated == done else None
        names = self.prepared.names.get(done, ())
        self.checkpoints.save(done, state, found, note, self.folder.path / FILE, names)
        self.saved = done


def validated_figures(recipe: Recipe, folder: RunDir, until: int) -> list[float]:
    """The figure of BEST_METRIC at every validation up to step `until`, as metrics.jsonl has it."""
    name = f"{VALIDATION}{recipe.best_metric}"
    return broadcast(
        lambda: [
            line[name] for line in (read(folder.path) if until else ()) if line.get("step", 0) <= until and name in line
        ]
    )


def is_stalled(recipe: Recipe, figures: Sequence[float]) -> bool:
    """True where so many validations in a row as PATIENCE says found no better BEST_METRIC."""
    best, patience = recipe.best, recipe.patience
    return best is not None and patience is not None and best.stalled(figures, patience)


def last_checkpoint(step: int | None, folder: RunDir) -> str:
    """The part of a sentence that names the last whole checkpoint, that of `step`."""
    if step is None:
        return "there is no checkpoint yet"
    return f"the last good checkpoint is that of step {step} in {folder.checkpoints}"
