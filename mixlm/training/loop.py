"""The training loop: step, log, validate and save until the last step or a signal."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import wait
from contextlib import ExitStack, contextmanager
from typing import Any

import jax

from mixlm.checkpoints.run_dir import RunDir
from mixlm.checkpoints.saving import Checkpoints
from mixlm.data.loader.batches import Batches
from mixlm.errors import Stopped
from mixlm.parallel.processes import group, is_main
from mixlm.perf.profiler import Profile, Tracer
from mixlm.reports.metrics import Progress
from mixlm.training.fit import memory_said
from mixlm.training.ledger import Ledger
from mixlm.training.prepare import PreparedRun
from mixlm.training.report import Watched
from mixlm.training.signals import Signals

Say = Callable[[str], None]


class Loop:
    """Trains from a checkpoint to the last step: reads batches, logs, validates and saves on the way."""

    def __init__(
        self,
        prepared: PreparedRun,
        folder: RunDir,
        checkpoints: Checkpoints,
        say: Say,
        signals: Signals,
        profile: Profile | None = None,
    ):
        self.prepared, self.recipe, self.folder = prepared, prepared.recipe, folder
        self.checkpoints, self.say, self.signals = checkpoints, say, signals
        self.ledger = Ledger(prepared, folder, checkpoints)
        self.watched = Watched(prepared, folder, say)
        # All hosts of a run do the same work: the trace of process 0 stands for all.
        self.tracer = Tracer(profile if is_main() else None, folder.profile)

    def run(self, begun: int, state: Any, note: Mapping[str, Any]) -> Any:
        """Trains from `state`, `begun` steps old, and returns the last state; raises Stopped where a signal came first.

        The state is saved in both cases. `note` is that of the checkpoint that `state` was read from.
        """
        recipe = self.recipe
        batches = Batches(self.prepared.train_blocks, recipe.batch_size, *self.prepared.host_rows, recipe.before)
        with ExitStack() as shown:
            self.begin(begun, note, shown)
            # From here on a signal is only noted: the loop stops after a step that all processes have taken.
            with self.signals.deferred(group().request_stop):
                with memory_said(self.prepared, lambda: self.at, self.ledger.kept):
                    done, state = self.steps(begun, state, batches.iterate(begun))
                stopped = done < recipe.steps and not self.ledger.is_stalled()
                if stopped and done:
                    self.say(f"{group().stop_reason} came: saving; another signal leaves at once.")
                if done != (self.ledger.saved or 0):
                    self.save(done, state)
                # A signal now must not take away what is being saved.
                self.checkpoints.wait()
        if stopped:
            what = f"saved after step {done}" if done else "no step was taken yet"
            raise Stopped(str(group().stop_reason), what, everywhere=True)
        return state

    def begin(self, begun: int, note: Mapping[str, Any], shown: ExitStack) -> None:
        """Waits for the first executables and opens metrics.jsonl and the progress bar; `shown` closes them."""
        recipe = self.recipe
        self.ledger.begin(begun, note, self.say, shown)
        # The clock starts once the first step is compiled, or the time left would include that.
        _ = self.prepared.train_step[recipe.stages.at(begun).objective]
        for objective in recipe.validated:
            self.prepared.validation_step.compile(objective)
        self.clock, self.at = Clock(begun), begun
        group().begin(begun)
        self.progress = shown.enter_context(Progress(recipe.steps, begun)) if is_main() else None
        shown.callback(self.tracer.close)

    def steps(self, begun: int, state: Any, batches: Iterator[tuple[int, dict[str, Any]]]) -> tuple[int, Any]:
        """Trains until the last step or a signal; returns (steps done, state), all metrics logged."""
        recipe, done = self.recipe, begun
        late: tuple[int, dict[str, Any]] | None = None
        for step, batch in batches:
            self.at = step
            # Another stage has another executable, compiled in the background since the run began.
            with self.clock.stopped():
                self.await_compiled(step)
                if not group().may_step(step):
                    break
                executable = self.prepared.train_step[recipe.stages.at(step).objective]
                self.tracer.begin(step, state)
            # Dispatch the step: the batch is sharded, the old state donated, and nothing is waited for.
            with self.tracer.step(step):
                state, metrics = executable(state, self.prepared.shard_batch(batch), self.prepared.seed)
            with self.clock.stopped():
                self.tracer.end(step, metrics)
            done = step + 1
            # Fetch the metrics of the step before while this one runs, so that the device never waits for the host.
            if late is not None:
                self.settle(*late)
            late = done, metrics
            ends = done == recipe.steps
            validates, saves = self.ledger.is_validated(done), self.ledger.is_saved(done)
            # Validation and checkpoints need this very step's state: its metrics are fetched first, so that a loss that
            # is not finite is neither validated nor saved.
            if validates or saves:
                self.settle(done, metrics, state.params if validates else None)
                late = None
            if saves:
                self.save(done, state)
            if ends or (validates and self.ledger.is_stalled()):
                break
        if late is not None:
            self.settle(*late)
        return done, state

    def await_compiled(self, step: int) -> None:
        """Waits for the executable of a step, which may take minutes, or for a signal."""
        compiled = self.prepared.train_step.compile(self.recipe.stages.at(step).objective)
        while not compiled.done() and group().stop_reason is None:
            wait([compiled], timeout=0.1)

    def settle(self, done: int, metrics: dict[str, Any], params: Any = None) -> None:
        """Fetches and checks a step's metrics, and logs them every LOG_PERIOD steps; with `params`, validates, too."""
        figures = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self.ledger.add(done, figures)
        if self.ledger.is_logged(done) or params is not None:
            self.record(done, figures, params)
        elif self.progress is not None:
            self.progress.advance(done)

    def record(self, done: int, figures: dict[str, float], params: Any) -> None:
        """Writes a line of metrics.jsonl: the step's metrics, speed, data, FLOPs and, with `params`, validation."""
        since = self.clock.done
        line = self.ledger.line(done, figures, since, self.clock.rate(done))
        if params is not None:
            with self.clock.stopped():
                line |= self.prepared.validate(params, done)
                self.watched.look(done, params)
        self.ledger.write(done, line)
        if self.progress is not None:
            self.progress.update(done, self.ledger.stage(done), line)

    def save(self, done: int, state: Any) -> None:
        """Begins to save in the background; the clock stops only while the state is copied."""
        with self.clock.stopped():
            self.ledger.save(done, state)


class Clock:
    """Measures steps per second since the last call of `rate`, without the time in which it was stopped."""

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
        """The time inside of the block does not count."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.start += time.perf_counter() - begun
