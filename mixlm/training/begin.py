"""The beginning of a run: is its folder the right one, is there work left, and which state goes on from there."""

from collections.abc import Callable
from typing import Any

from mixlm.checkpoints.run_dir import RunDir
from mixlm.checkpoints.saving import Checkpoints
from mixlm.checkpoints.warm_start import find_warm_start
from mixlm.data.vocabularies.kept import keep
from mixlm.parallel.processes import broadcast, check_agreement
from mixlm.perf.profiler import Profile
from mixlm.recipe import Recipe
from mixlm.reports import record
from mixlm.training.loop import Say
from mixlm.training.prepare import PreparedRun


def confirm(run_dir: RunDir, identity: dict[str, str]) -> None:
    """Raises UserError unless all processes were started with this identity, and the directory holds no other run.

    A run asks twice: with its recipe, before data are read, and with the fingerprints of the data, before it writes.
    """
    check_agreement(identity)
    broadcast(lambda: run_dir.check(identity))


def is_over(steps: int, latest: int, first: int, run_dir: RunDir, say: Say, profile: Profile | None) -> bool:
    """True for a run that has its last checkpoint and its report.

    Raises UserError where `profile` has no step between the `first` one and the last.
    """
    if profile is not None:
        profile.check(first, steps)
    if not broadcast(lambda: latest >= steps and run_dir.curves.exists()):
        return False
    say(f"{run_dir.path} has finished its {steps} steps; its curves are in {run_dir.curves}.")
    return True


def acquire(
    prepared: PreparedRun,
    run_dir: RunDir,
    checkpoints: Checkpoints,
    identity: dict[str, str],
    latest: int,
    source: str | None,
    check: Callable[[], None],
) -> tuple[int, Any, dict[str, Any]]:
    """Takes the directory; returns (steps done, the state, its checkpoint's note).

    A run without checkpoints calls `check` before its directory shows a trace of it.
    """
    # A warm start that does not fit fails here, before the directory shows a trace of the run.
    begun = None if latest else first_state(prepared, source)
    if not latest:
        check()
    broadcast(lambda: run_dir.acquire(identity, prepared.recipe.config))
    broadcast(lambda: keep_vocabulary(prepared, run_dir))
    run_dir.check_shared()
    restored = checkpoints.restore(prepared.shapes)
    if restored is not None:
        done, state = restored
        return done, state, checkpoints.note(done)
    # All of the run's own checkpoints may turn out to be corrupt only here.
    broadcast(lambda: run_dir.check_untrained(prepared.recipe.checkpoint_period))
    return begun or first_state(prepared, source)


def keep_vocabulary(prepared: PreparedRun, run_dir: RunDir) -> None:
    """Copies a vocabulary that was given as a file into the run's folder; one that was trained is in the cache."""
    path = getattr(getattr(prepared.data, "vocabulary", None), "path", None)
    if path is not None and not path.is_relative_to(prepared.recipe.dataset.cache):
        with run_dir.written(lambda: "nothing was trained"):
            keep(path, run_dir.path)


def resume_record(
    recipe: Recipe, run_dir: RunDir, checkpoints: Checkpoints, done: int, note: dict[str, Any], began: int
) -> list[str]:
    """Makes metrics.jsonl what it was after step `done`; returns the sentences about what it was not."""
    if checkpoints.written() is None:  # nothing was recorded that counts
        return record.resume(run_dir.path, done).said
    logged = note.get(record.LOGGED)
    known = logged if type(logged) is int else None
    copies = checkpoints.histories(done)
    return record.resume(run_dir.path, done, copies, known, recipe.log_period, began).said


def first_state(prepared: PreparedRun, source: str | None) -> tuple[int, Any, dict[str, Any]]:
    """(Steps done, the state, its checkpoint's note) of a run without checkpoints: fresh, or of its warm start."""
    warm_start = prepared.warm_start or find_warm_start(prepared.recipe, source)
    if warm_start is None:
        return 0, prepared.init_state(), {}
    return warm_start.first, warm_start.state(prepared.init_state, prepared.shapes), warm_start.note()
