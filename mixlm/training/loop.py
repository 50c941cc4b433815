"""The loop: step, log, validate and save until the last step or a signal."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import wait
from contextlib import ExitStack, contextmanager
from typing import Any

import jax

from mixlm.checkpoints.manager import Checkpoints
from mixlm.checkpoints.run_dir import RunDir
from mixlm.data.loader.batches import Batches
from mixlm.errors import UserError
from mixlm.parallel.processes import group, is_main
from mixlm.perf.accounting import Usage
from mixlm.perf.profiler import Profile, Tracer
from mixlm.reports.metrics import VALIDATION, Progress, Recorder
from mixlm.training.prepare import Plan
from mixlm.training.report import validate
from mixlm.training.signals import Signals

Say = Callable[[str], None]


class Loop:
    """Steps from a checkpoint to the last step, with what is read, logged, validated and saved on the way."""

    def __init__(
        self,
        planned: Plan,
        folder: RunDir,
        checkpoints: Checkpoints,
        say: Say,
        signals: Signals,
        profile: Profile | None = None,
    ):
        self.plan, self.recipe, self.folder = planned, planned.recipe, folder
        self.checkpoints, self.say, self.signals = checkpoints, say, signals
        self.seed = planned.number(self.recipe.seed)
        self.saved: int | None = None
        self.validated: tuple[int, dict[str, float]] = (0, {})  # the step that was validated last, and its figures
        # The hosts of a run do the same: the first one's trace stands for all.
        self.tracer = Tracer(profile if is_main() else None, folder.profile)

    def run(self, begun: int, state: Any, note: Mapping[str, Any]) -> Any | None:
        """Returns the last state, or None where a signal ended the run early, with its state saved.

        `note` is that of the checkpoint which `state` comes from.
        """
        recipe = self.recipe
        batches = Batches(self.plan.train, recipe.batch_size, *self.plan.rows)
        with ExitStack() as shown:
            self.begin(begun, note, shown)
            with self.signals.noted(group().request_stop):
                done, state = self.steps(begun, state, batches.iterate(begun))
                if 0 < done < recipe.steps:
                    self.say(f"{group().stop_reason} came: saving; another signal leaves at once.")
                if done != (self.saved or 0):
                    self.save(done, state)
                # A signal now must not take away what is being saved.
                self.checkpoints.wait()
        if done < recipe.steps:
            what = f"saved after step {done}" if done else "no step was taken yet"
            self.say(f"{group().stop_reason} came: {what}; the same command goes on from there.")
            return None
        return state

    def begin(self, begun: int, note: Mapping[str, Any], shown: ExitStack) -> None:
        """Compiles what comes first and opens the record; `shown` closes it."""
        recipe = self.recipe
        self.saved = self.checkpoints.latest()
        self.spent = Usage.from_note(note) if begun else Usage({})
        # Waits until the first step is compiled: the time left shall not count that.
        _ = self.plan.steps[recipe.stages.at(begun).objective]
        for objective in recipe.validated:
            self.plan.validations.prepare(objective)
        self.clock = Clock(begun)
        group().begin(begun)
        self.recorder = shown.enter_context(Recorder(self.folder.path, begun)) if is_main() else None
        self.progress = shown.enter_context(Progress(recipe.steps, begun)) if is_main() else None
        shown.callback(self.tracer.close)

    def steps(self, begun: int, state: Any, batches: Iterator[tuple[int, dict[str, Any]]]) -> tuple[int, Any]:
        """Steps until the last one, or until a signal came; returns how many are done, all of them settled."""
        recipe, done = self.recipe, begun
        late: tuple[int, dict[str, Any]] | None = None
        for step, batch in batches:
            with self.clock.stopped():
                self.await_compiled(step)
                if not group().may_step(step):
                    break
                executable = self.plan.steps[recipe.stages.at(step).objective]
                self.tracer.begin(step, state)
            with self.tracer.step(step):
                state, metrics = executable(state, self.plan.place(batch), self.seed)
            with self.clock.stopped():
                self.tracer.end(step, metrics)
            done = step + 1
            # A step's figures are fetched while the next step runs, so that the device does not wait for us.
            if late is not None:
                self.settle(*late)
            late = done, metrics
            ends = done == recipe.steps
            validates = ends or done % recipe.eval_period == 0
            saves = ends or done % recipe.checkpoint_period == 0
            if validates or saves:
                self.settle(done, metrics, state.params if validates else None)
                late = None
            if saves:
                self.save(done, state)
            if ends:
                break
        if late is not None:
            self.settle(*late)
        return done, state

    def await_compiled(self, step: int) -> None:
        """Waits for the executable of a step, unless a signal comes: a large one takes minutes."""
        compiled = self.plan.steps.prepare(self.recipe.stages.at(step).objective)
        while not compiled.done() and group().stop_reason is None:
            wait([compiled], timeout=0.1)

    def settle(self, done: int, metrics: dict[str, Any], params: Any = None) -> None:
        """Checks a finished step, and records it where it is due; with `params` it is validated as well."""
        due = done == 1 or done % self.recipe.log_period == 0 or done == self.recipe.steps
        figures = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not (math.isfinite(figures["loss"]) and math.isfinite(figures["grad_norm"])):
            raise UserError(
                f"The loss of step {done} is not finite (loss {figures['loss']}, gradient norm "
                f"{figures['grad_norm']}); {kept(self.saved, self.folder)}."
            )
        self.spent.add(self.recipe.stages.at(done - 1).objective.name, figures)
        if due or params is not None:
            self.record(done, figures, params)
        elif self.progress is not None:
            self.progress.advance(done)

    def record(self, done: int, figures: dict[str, float], params: Any) -> None:
        """Writes the line of a step."""
        recipe, top = self.recipe, ("loss", "learning_rate", "grad_norm")
        stage = recipe.stages.at(done - 1).objective.name
        line = {name: figures[name] for name in top}
        # What no row of a step was asked for has no figure there.
        line |= {f"train/{name}": value for name, value in figures.items() if name not in top and value == value}
        line |= {
            **self.speed(done),
            **self.plan.train.figures(done, recipe.batch_size),
            "flops": self.plan.flops_until(done),
            **self.spent.line(self.plan.flops_by_stage(done)),
        }
        if params is not None:
            with self.clock.stopped():
                found = validate(self.plan, params, self.seed, done)
            line |= found
            self.validated = done, {name.removeprefix(VALIDATION): value for name, value in found.items()}
        if self.recorder is not None and self.progress is not None:
            self.recorder.write(done, stage, line)
            self.progress.update(done, stage, line)

    def speed(self, done: int) -> dict[str, float]:
        """Tokens per second since the line before, and the share of the devices' peak that the networks' FLOPs had.

        The share is the model-FLOPs utilisation (see `accounting.mfu_flops`); none where the peak is not known.
        """
        recipe, peak, before = self.recipe, self.plan.peak_flops, self.clock.done
        rate = self.clock.rate(done)
        found = {"tokens_per_second": rate * recipe.batch_size * recipe.block_length}
        if peak is not None and done > before:
            flops = self.plan.model_flops_until(done) - self.plan.model_flops_until(before)
            found["mfu"] = rate * flops / (done - before) / peak
        return found

    def save(self, done: int, state: Any) -> None:
        """Begins to save; the clock stands only while the state is copied."""
        validated, figures = self.validated
        with self.clock.stopped():
            note = self.plan.train.figures(done, self.recipe.batch_size) | self.spent.note()
            self.checkpoints.save(done, state, figures if validated == done else None, note)
        self.saved = done


class Clock:
    """Steps per second since they were last asked for, without the time in which the clock was stopped."""

    def __init__(self, done: int):
        self.done, self.start = done, time.perf_counter()

    def rate(self, done: int) -> float:
        """Steps per second since the last call."""
        now = time.perf_counter()
        rate = (done - self.done) / max(now - self.start, 1e-9)
        self.done, self.start = done, now
        return rate

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """What happens inside does not count."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.start += time.perf_counter() - begun


def kept(step: int | None, folder: RunDir) -> str:
    """What a run still has, for a sentence: its last whole checkpoint is that of `step`."""
    if step is None:
        return "there is no checkpoint yet"
    return f"the last good checkpoint is that of step {step} in {folder.checkpoints}"
