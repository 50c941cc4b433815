"""Run directories: the files of a run, and the identity of the run that they belong to."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mixlm.errors import UserError
from mixlm.files import open_in_place, read_json, replacing
from mixlm.paths import refuse_special
from mixlm.reports.record import FILE, whole_lines

# Parts of an identity that are known only once the data are prepared, or the first state is made.
LATE = ("data", "vocabulary", "began", "plain_text", "held_out")
# How plain text is read. Runs of versions before 0.5.0, where tensorflow-text tokenised it, say neither, and those
# before 0.6.0, where files were held out by their names, do not say the second.
PLAIN_TEXT = {"plain_text": "sentencepiece", "held_out": "by content"}


class RunDir:
    """The directory of one run: `recipe.json` (its identity), `config.gin`, `metrics.jsonl`, `tensorboard/`,
    `checkpoints/`, `curves.png`, `samples.txt`, `predictions/` of supervised tasks, and `profile/` where steps were
    traced.

    `path` may be a symbolic link, and so may `checkpoints/`, as on clusters with a scratch file system; any other link
    inside is refused.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock_fd: int | None = None
        self.recipe, self.config = path / "recipe.json", path / "config.gin"
        self.checkpoints, self.curves, self.samples = path / "checkpoints", path / "curves.png", path / "samples.txt"
        self.profile = path / "profile"

    def check(self, identity: Mapping[str, str]) -> None:
        """Raises UserError where the directory holds a run of another identity, or files and no run; writes nothing."""
        if not self.recipe.exists():
            if self.path.exists() and (not self.path.is_dir() or any(p.name[0] != "." for p in self.path.iterdir())):
                raise UserError(
                    f"{self.path} exists and is no run's folder (it has no recipe.json); choose another MODEL_DIR."
                )
            return
        held = self.read_identity()
        names = [name for name in {**held, **identity} if not _late(name) or (name in identity and name in held)]
        differing = [name for name in names if held.get(name) != identity.get(name)]
        if differing and all(map(_is_data, differing)) and was_retokenised(held):
            raise UserError(
                f"{self.path} cannot be resumed, as {RETOKENISED}: begin a new run with its parameters "
                f"(--gin.MODEL_DIR=FOLDER --gin.INIT_FROM={self.path}){by_name(held)}."
            )
        if differing:
            raise UserError(
                f"{self.path} holds another run, with {', '.join(_difference(n, held, identity) for n in differing)}; "
                f"give this one a folder of its own with --gin.MODEL_DIR=FOLDER"
                f"{by_name(held) if all(name == 'vocabulary' or _is_data(name) for name in differing) else ''}."
            )

    def check_untrained(self, period: int) -> None:
        """Raises UserError where a run without a whole checkpoint shows that it had one.

        A checkpoint was due every `period` steps, and the history would be written over from step 0.
        """
        steps = [line.step for line in whole_lines(self.path)]
        # A save waits for the one before it: lines that go past two of them prove that one was whole.
        if steps and (self.curves.exists() or max(steps) - min(steps) >= 2 * period):
            raise UserError(
                f"{self.path} was trained to step {max(steps)} and has no whole checkpoint, so that this start would "
                f"write over its history from step 0: give another MODEL_DIR, or move its {FILE} away."
            )

    def read_identity(self) -> dict[str, str]:
        """The identity of the run in this directory, {} where it holds none.

        Raises UserError for a damaged record, and for a link inside: the files that a run reads, truncates and
        overwrites would be somewhere else.
        """
        if not self.recipe.exists():
            return {}
        self._refuse_links()
        try:
            held: dict[str, str] = read_json(self.recipe)
        except UserError as error:
            raise UserError(f"{self.recipe} is damaged, so whose run it is cannot be told: {error}") from None
        if not held or not all(isinstance(value, str) for value in held.values()):
            raise UserError(
                f"{self.recipe} is damaged, so whose run it is cannot be told: its values are texts, and these are not."
            )
        return held

    def _refuse_links(self) -> None:
        for entry in self.path.iterdir():
            if entry != self.checkpoints:
                refuse_special(entry)
            elif not entry.is_dir():
                raise UserError(f"{entry} must be a folder, or a link to a folder that exists.")

    def acquire(self, identity: Mapping[str, str], config: str) -> None:
        """Locks the directory for this run and records its identity; `config` is written anew at every start."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._refuse_links()
            self._lock()
            with replacing(self.recipe) as file:
                json.dump(dict(identity) | PLAIN_TEXT, file, indent=1)
            with replacing(self.config) as file:
                file.write(config)
        except OSError as error:
            raise UserError(f"{self.path} cannot be written to: {error.strerror}.") from error

    @contextmanager
    def written(self, kept: Callable[[], str]) -> Iterator[None]:
        """Turns an OSError inside of the block into UserError; `kept` describes the checkpoints that are left."""
        try:
            yield
        except OSError as error:
            place, reason = error.filename or self.path, error.strerror or str(error)
            raise UserError(
                f"{place} could not be written ({reason}); {kept()}, and the same command goes on from there."
            ) from error

    def check_shared(self) -> None:
        """Raises UserError where this process does not see what process 0 has just written."""
        if not self.recipe.exists():
            raise UserError(
                f"{self.path} is not the same folder in every process (recipe.json is missing here); choose a "
                f"MODEL_DIR that all of them share."
            )

    def remove_report(self) -> None:
        """Removes the curves and samples of a run that goes on."""
        for path in (self.curves, self.samples):
            path.unlink(missing_ok=True)

    def _lock(self) -> None:
        """Locks the directory until `release`, or until this process ends in any way."""
        if self._lock_fd is not None:
            return
        self._lock_fd = open_in_place(self.path / ".lock")
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise UserError(f"{self.path} is being written to by another process; wait for it, or stop it.") from None

    def release(self) -> None:
        """Unlocks the directory."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None


RETOKENISED = "its text has changed or is tokenised otherwise since version 0.5.0 (by sentencepiece alone)"


def was_retokenised(held: Mapping[str, str]) -> bool:
    """True for a run on plain text that an earlier version tokenised, maybe otherwise than this one does."""
    return "TextTask(" in held.get("dataset", "") and not PLAIN_TEXT.keys() & held.keys()


def held_out_by_name(folder: Path) -> bool:
    """True for the folder of a run that a version before 0.6.0 began, whose text was held out by its files' names."""
    return "held_out" not in RunDir(folder).read_identity()


def by_name(held: Mapping[str, str]) -> str:
    """The advice where the run's data or vocabulary may differ because its text is held out otherwise since 0.6.0."""
    text = any(source in held.get("dataset", "") for source in ("TextFiles(", "source=Text("))
    then = text and "held_out" not in held
    return ", or --gin.HOLD_OUT_BY=name, as a version before 0.6.0 began it on files of text" if then else ""


def _is_data(name: str) -> bool:
    return name == "data" or name.startswith("data/")


def _late(name: str) -> bool:
    return name in LATE or _is_data(name)


def _difference(name: str, held: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    before, now = held.get(name, "none"), wanted.get(name, "none")
    if len(before) + len(now) < 60:
        return f"{name} {before} instead of {now}"
    start = next((i for i, (a, b) in enumerate(zip(before, now)) if a != b), 0)
    start = max(before.rfind("(", 0, start), before.rfind(" ", 0, start)) + 1
    return f"{name} ...{before[start : start + 40]}... instead of ...{now[start : start + 40]}..."
