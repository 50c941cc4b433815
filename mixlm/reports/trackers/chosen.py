"""The trackers of a run, by their names in TRACKERS: checked beforehand, opened together, and each failing alone."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from mixlm.errors import UserError, nearest
from mixlm.reports.trackers.base import About, Tracker
from mixlm.reports.trackers.mlflow import MLflow
from mixlm.reports.trackers.tensorboard import TensorBoard
from mixlm.reports.trackers.trackio import Trackio
from mixlm.reports.trackers.wandb import Wandb

RECORD = "jsonl"  # metrics.jsonl, which a run resumes and reports by
DEFAULT = (RECORD, "tensorboard")
TRACKERS: dict[str, type[Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": MLflow,
    "trackio": Trackio,
}
SHOWN = 160  # Ours: characters of an error that a sentence has room for.


def check_names(names: Sequence[str]) -> None:
    """Raises UserError unless `names` are some of TRACKERS, and the record is among them."""
    known = [RECORD, *TRACKERS]
    for name in names:
        if name not in known:
            raise UserError(
                f"TRACKERS = {tuple(names)} names {name!r}, and trackers are {', '.join(known)}."
                f"{nearest(str(name), known)}"
            )
    if RECORD not in names:
        raise UserError(f"TRACKERS = {tuple(names)} leaves out {RECORD!r}, the metrics.jsonl that a run resumes by.")
    if len(set(names)) < len(names):
        raise UserError(f"TRACKERS = {tuple(names)} names a tracker twice.")


def check_installed(names: Sequence[str]) -> None:
    """Raises UserError for a tracker whose library is not installed."""
    for name in names:
        kind = TRACKERS.get(name)
        if kind is not None and importlib.util.find_spec(kind.library) is None:
            how = f"pip install 'mixlm[{kind.extra}]'" if kind.extra else f"pip install {kind.library}"
            raise UserError(f"TRACKERS names {name!r}, and {kind.library} is not installed: {how}.")


class Trackers:
    """The trackers of a run beside its record: one that fails is left out from then on, which `say` is told once."""

    def __init__(self, names: Sequence[str], about: About, say: Callable[[str], None]) -> None:
        self._say, self._step = say, about.begun
        self._open: dict[str, Tracker] = {}
        for name in names:
            if name != RECORD:
                self._try(name, partial(self._begin, name, about))

    def _begin(self, name: str, about: About) -> None:
        self._open[name] = TRACKERS[name](about)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Hands the figures after `step` to each tracker."""
        self._step = step
        for name, tracker in list(self._open.items()):
            self._try(name, partial(tracker.write, step, numbers))

    def close(self) -> None:
        """Closes each tracker."""
        for name, tracker in list(self._open.items()):
            self._try(name, tracker.close)
        self._open.clear()

    def _try(self, name: str, work: Callable[[], object]) -> None:
        try:
            work()
        except UserError:  # a link in the run's folder, say: the user's to mend
            raise
        except Exception as error:
            self._open.pop(name, None)
            what = " ".join(str(error).split())
            what = what if len(what) <= SHOWN else f"{what[:SHOWN]}..."
            self._say(
                f"The tracker {name} failed at step {self._step} ({type(error).__name__}{f': {what}' if what else ''});"
                " the run goes on without it, and metrics.jsonl has every line."
            )
