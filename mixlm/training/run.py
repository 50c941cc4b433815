"""A run: resume or begin, train to the last step, and show what was learnt."""

from typing import Any

from mixlm.checkpoints.manager import Checkpoints
from mixlm.checkpoints.run_dir import RunDir
from mixlm.checkpoints.warm_start import find_warm_start
from mixlm.errors import NotHere, UserError
from mixlm.parallel.processes import broadcast, check_agreement, group, is_main, main_first
from mixlm.perf.compilation_cache import EXECUTABLES, kept_in
from mixlm.perf.profiler import Profile
from mixlm.recipe import Recipe
from mixlm.training.loop import Loop, Say, kept
from mixlm.training.prepare import Plan, plan
from mixlm.training.report import finish
from mixlm.training.signals import Signals
from mixlm.training.summary import Explanation, explanation, summary


def explain(recipe: Recipe, say: Say = print) -> Explanation:
    """Returns what a run would do, with examples of every objective, and trains nothing; `say` tells of its data."""
    say = say if is_main() else _silent
    with kept_in(recipe.dataset.cache / EXECUTABLES):
        return _explain(recipe, say)


def _explain(recipe: Recipe, say: Say) -> Explanation:
    try:
        data = main_first(lambda: recipe.dataset.prepare(say))
    except NotHere as missing:
        data = None
        say(str(missing))
    begins = not Checkpoints(RunDir(recipe.folder).checkpoints).latest()
    planned = plan(recipe, data, origin=find_warm_start(recipe) if begins else None)
    try:
        return explanation(planned)
    finally:
        planned.close()


def train(recipe: Recipe, say: Say = print, profile: Profile | None = None) -> None:
    """Runs a recipe to its last step, from the newest checkpoint in its folder.

    The folder keeps `recipe.config` as config.gin. The steps of `profile` are traced into the folder's `profile`.
    Raises UserError, with nothing lost, for a folder that holds another run and for a loss that is not finite, and
    Stopped for a signal that comes where there is no step to save.
    """
    if recipe.ref.which is not None:
        raise UserError(
            f"MODEL_DIR = {recipe.model_dir!r} names a checkpoint: to begin there, give --gin.INIT_FROM="
            f"{recipe.model_dir} and a MODEL_DIR of its own."
        )
    signals = Signals()
    with signals.awaited(), kept_in(recipe.dataset.cache / EXECUTABLES):
        _train(recipe, say if is_main() else _silent, signals, profile)


def _silent(_: str) -> None:
    """What processes other than the first say."""


def _train(recipe: Recipe, say: Say, signals: Signals, profile: Profile | None) -> None:
    folder, identity = RunDir(recipe.folder), recipe.identity()
    check_agreement(identity)
    broadcast(lambda: folder.check(identity))
    began = broadcast(lambda: folder.read_identity().get("began"))
    checkpoints = Checkpoints(folder.checkpoints, recipe.keep, recipe.best_metric, recipe.keep_best, recipe.keep_period)

    def stands() -> str:
        return kept(checkpoints.written(), folder)

    signals.stands = group().describe_kept = stands
    latest = checkpoints.latest() or 0
    if profile is not None and recipe.train_steps is not None:
        profile.check(latest, recipe.train_steps)
    if recipe.train_steps is not None and _finished(recipe.train_steps, latest, folder, say):
        return
    origin = None if latest else find_warm_start(recipe, began)
    check_agreement({"INIT_FROM": "no run" if origin is None else origin.name})
    planned = plan(recipe, main_first(lambda: recipe.dataset.prepare(say)), latest, origin)
    recipe = planned.recipe
    try:
        if profile is not None:
            profile.check(latest if planned.origin is None else planned.origin.first, recipe.steps)
        if _finished(recipe.steps, latest, folder, say):
            return
        identity |= planned.fingerprints
        check_agreement(identity)
        broadcast(lambda: folder.check(identity))
        if (place := began if origin is None else origin.name) is not None:
            identity |= {"began": place}
        for line in summary(planned):
            say(line)
        # An origin that does not fit leaves no trace.
        begun = None if latest else _begun(planned, began)
        broadcast(lambda: folder.acquire(identity, recipe.config))
        folder.check_shared()
        restored = checkpoints.restore(planned.state)
        if restored is not None:
            begun = (*restored, checkpoints.note(restored[0]))
        done, state, note = begun or _begun(planned, began)
        say(f"resuming after step {done}" if done else "compiling the first step")
        with folder.written(stands):
            if done < recipe.steps:
                # A longer run's report is not the shorter one's.
                broadcast(folder.remove_report)
                state = Loop(planned, folder, checkpoints, say, signals, profile).run(done, state, note)
            if state is not None:
                finish(planned, folder, state, say)
                _say_best(recipe, checkpoints, say)
    finally:
        try:
            checkpoints.close()
        finally:
            planned.close()
            folder.release()


def _finished(steps: int, latest: int, folder: RunDir, say: Say) -> bool:
    if not broadcast(lambda: latest >= steps and folder.curves.exists()):
        return False
    say(f"{folder.path} has finished its {steps} steps; its curves are in {folder.curves}.")
    return True


def _begun(planned: Plan, began: str | None) -> tuple[int, Any, dict[str, Any]]:
    """The steps that are done, the state and its checkpoint's note, afresh or as the run's origin has them."""
    # All checkpoints of its own may have been found torn only now.
    origin = planned.origin or find_warm_start(planned.recipe, began)
    if origin is None:
        return 0, planned.create(), {}
    return origin.first, origin.state(planned.create, planned.state), origin.note()


def _say_best(recipe: Recipe, checkpoints: Checkpoints, say: Say) -> None:
    best = None if recipe.best_metric is None else checkpoints.best(recipe.best_metric)
    if best is not None:
        say(f"Best is step {best[0]}, with {best[1]:.4f} of {recipe.best_metric}: {recipe.folder}@best.")
