"""A run from its recipe to its last checkpoint: check, prepare, load, step, report."""

from contextlib import ExitStack, closing

from mixlm.checkpoints.orbax_io import quiet_orbax
from mixlm.checkpoints.run_dir import RunDir
from mixlm.checkpoints.saving import Checkpoints
from mixlm.checkpoints.warm_start import find_warm_start, step_of
from mixlm.errors import NotHere, UserError
from mixlm.parallel.processes import broadcast, check_agreement, group, is_main, main_first
from mixlm.perf.compilation_cache import EXECUTABLES, kept_in
from mixlm.perf.kernel_proofs import told
from mixlm.perf.profiler import Profile
from mixlm.recipe import Recipe
from mixlm.reports.table import fixed
from mixlm.reports.trackers.chosen import check_installed
from mixlm.training.begin import acquire, confirm, is_over, resume_record
from mixlm.training.fit import check_step
from mixlm.training.journal import noted
from mixlm.training.ledger import is_stalled, last_checkpoint, validated_figures
from mixlm.training.loop import Loop, Say
from mixlm.training.named import passed_by
from mixlm.training.prepare import prepare
from mixlm.training.report import finish
from mixlm.training.signals import Signals
from mixlm.training.summary import Explanation, explanation, summary


def explain(recipe: Recipe, say: Say = print) -> Explanation:
    """Returns the summary of a run and examples of every objective, and trains nothing; `say` tells of its data."""
    say = say if is_main() else _silent
    with quiet_orbax(), kept_in(recipe.dataset.cache / EXECUTABLES), told(say):
        return _explain(recipe, say)


def _explain(recipe: Recipe, say: Say) -> Explanation:
    try:
        data = main_first(lambda: recipe.dataset.prepare(say))
    except NotHere as missing:
        data = None
        say(str(missing))
    resumes = Checkpoints(RunDir(recipe.folder).checkpoints).latest()
    with closing(prepare(recipe, data, warm_start=None if resumes else find_warm_start(recipe))) as prepared:
        return explanation(prepared)


def train(recipe: Recipe, say: Say = print, profile: Profile | None = None) -> None:
    """Trains a recipe to its last step, from the newest checkpoint in its directory.

    The directory keeps `recipe.config` as config.gin. The steps of `profile` are traced into its `profile/`. Raises
    UserError, with nothing lost, for a directory that holds another run and for a loss that is not finite, and Stopped
    for a signal that comes before its end, with what was trained saved.
    """
    if recipe.ref.which is not None:
        raise UserError(
            f"MODEL_DIR = {recipe.model_dir!r} names a checkpoint: to begin there, give --gin.INIT_FROM="
            f"{recipe.model_dir} and a MODEL_DIR of its own."
        )
    signals, say = Signals(), say if is_main() else _silent
    with signals.handled(), quiet_orbax(), kept_in(recipe.dataset.cache / EXECUTABLES), told(say):
        _train(recipe, say, signals, profile)


def _train(recipe: Recipe, say: Say, signals: Signals, profile: Profile | None) -> None:
    # Before any data are read: is this directory, in every process, the place for this recipe, and is there work left?
    run_dir, identity = RunDir(recipe.folder), recipe.identity()
    check_installed(recipe.trackers)
    confirm(run_dir, identity)
    checkpoints = Checkpoints(run_dir.checkpoints, recipe.keep, recipe.best, recipe.keep_best, recipe.keep_period)
    signals.outcome = group().describe_kept = lambda: last_checkpoint(checkpoints.written(), run_dir)
    latest = checkpoints.latest() or 0
    if recipe.train_steps is not None and is_over(recipe.train_steps, latest, latest, run_dir, say, profile):
        return
    if not latest:
        broadcast(lambda: run_dir.check_untrained(recipe.checkpoint_period))

    # The data, tokenised once; the warm start, where no checkpoint of this run goes before it; the executables.
    source = broadcast(lambda: run_dir.read_identity().get("began"))
    warm_start = None if latest else find_warm_start(recipe, source)
    check_agreement({"INIT_FROM": "no run" if warm_start is None else warm_start.name})
    data = main_first(lambda: recipe.dataset.prepare(say))
    prepared = prepare(recipe, data, latest, warm_start)

    with ExitStack() as stack:
        stack.callback(run_dir.release)
        stack.callback(prepared.close)
        stack.callback(checkpoints.close)
        recipe, first = prepared.recipe, latest if warm_start is None else warm_start.first
        # A run of so many epochs knows its steps only now.
        stalled = is_stalled(recipe, validated_figures(recipe, run_dir, latest))
        ends = latest if stalled else recipe.steps
        if is_over(ends, latest, first, run_dir, say, profile):
            return
        # The data and the vocabulary belong to the identity, too: tokens that changed would go unnoticed.
        identity |= prepared.fingerprints
        confirm(run_dir, identity)
        if (name := source if warm_start is None else warm_start.name) is not None:
            identity |= {"began": name}
        for line in summary(prepared):
            say(line)

        # The compiler knows what a step holds; a run that does not fit leaves no folder.
        def compiled() -> None:
            say("compiling the first step")
            check_step(prepared, recipe.objectives[0])

        done, state, note = acquire(prepared, run_dir, checkpoints, identity, latest, source, compiled)
        began = step_of(source) if source and recipe.init_optimizer else 0
        said = broadcast(lambda: resume_record(recipe, run_dir, checkpoints, done, note, began))
        said += broadcast(lambda: passed_by(prepared.names, checkpoints, done))
        for line in said:
            say(line)
        if done or latest:  # All of the run's checkpoints may have turned out to be corrupt.
            say(f"resuming after step {done}" if done else "compiling the first step")
        with run_dir.written(signals.outcome), noted(prepared, run_dir, done, [*checkpoints.told, *said]):
            if done < ends:
                broadcast(run_dir.remove_report)  # That of a shorter run is not this one's.
                state = Loop(prepared, run_dir, checkpoints, say, signals, profile).run(done, state, note)
            finish(prepared, run_dir, state, say)
            _say_best(recipe, checkpoints, say)
            if checkpoints.latest() != recipe.steps:
                say(f"Stopped early (PATIENCE = {recipe.patience}): {recipe.best_metric} did not improve.")


def _say_best(recipe: Recipe, checkpoints: Checkpoints, say: Say) -> None:
    # Process 0 alone, since all of the best checkpoint is read to see that it is whole.
    best = None if recipe.best is None or not is_main() else checkpoints.best(recipe.best)
    if best is not None:
        say(f"Best is step {best[0]}, with {fixed(best[1], 4)} of {recipe.best_metric}: {recipe.folder}@best.")


def _silent(_: str) -> None:
    """Printing of all processes but the first."""
