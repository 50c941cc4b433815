"""Rounds of scoring: one checkpoint on the suites of a folder, or all that its submission to BabyLM asks for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mixlm.checkpoints.kept import KeptCheckpoints
from mixlm.checkpoints.run_dir import RunDir
from mixlm.errors import UserError
from mixlm.interop.babylm.run import MAIN, Plan, check_here
from mixlm.paths import BEST, RunRef

FULL, FAST = "full_eval", "fast_eval"  # folders of the pipeline's evaluation_data: for the last, for every checkpoint


@dataclass(frozen=True)
class Round:
    """A checkpoint by its address, the name under which its answers are filed, and its suites."""

    run: str
    revision: str
    plan: Plan


def rounds_of(run: str, data: Path, suites: Sequence[str] | None, revision: str | None) -> list[Round]:
    """One round; of a `data` that holds full_eval and fast_eval, one for the newest and one for each named checkpoint.

    A checkpoint is filed under `revision`, by default its own name, else "main". The newest is scored on full_eval, and
    each named one on fast_eval, with the age of acquisition that lies in full_eval. Raises UserError where a suite of
    `suites` is in none of the folders.
    """
    ref = RunRef.parse(run, "--run")
    called = ref.which if isinstance(ref.which, str) and ref.which != BEST else MAIN
    own = Round(run, called if revision is None else revision, Plan(data))
    if not any((data / name).is_dir() for name in (FULL, FAST)):
        return [replace(own, plan=Plan.of(data, suites))]
    full, fast = (Plan.found(data / name, suites) for name in (FULL, FAST))
    fast = replace(fast, acquisition=fast.acquisition or full.acquisition)
    check_here([full, fast], suites)
    asked = [own]
    if ref.which is None and revision is None:
        named = KeptCheckpoints(RunDir(ref.folder).checkpoints).named()
        asked += [replace(own, run=f"{ref.folder}@{name}", revision=name) for name in named]
    planned = [replace(each, plan=full if each.revision == MAIN else fast) for each in asked]
    # For the age of acquisition the pipeline reads the named checkpoints alone.
    found = [each for each in planned if each.plan.names - ({"aoa"} if each.revision == MAIN else set())]
    if not found:
        raise UserError(f"{run} keeps no checkpoint by its words (KEEP_AT_WORDS), and of others {data} asks nothing.")
    return found
