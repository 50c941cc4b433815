"""The run's record: a line of JSON per logged step, which its trackers get too, and the progress a person watches."""

import contextlib
import json
import math
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mixlm.files import open_append
from mixlm.reports.record import FILE, resume, whole_lines
from mixlm.reports.table import fixed
from mixlm.reports.trackers.base import About
from mixlm.reports.trackers.chosen import DEFAULT, Trackers

VALIDATION = "validation/"
NOTEBOOK = 120  # Ours: characters that a notebook's cell is wide.
# What a progress line shows by itself, so not among the terms.
_NOT_TERMS = ("step", "stage", "learning_rate", "tokens_per_second", "mfu", "flops", "grad_norm", "tokens", "epoch")


def _plain(value: Any) -> Any:
    """A value as strict JSON holds it: numbers of arrays as Python's, those that are not finite as strings."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


def _number(value: Any) -> Any:
    return float(value) if value in ("nan", "inf", "-inf") else value


def read(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records of a run's `metrics.jsonl`, with "nan", "inf" and "-inf" as floats again; [] without the file.

    Damaged lines are left out.
    """
    found = (line.record for line in whole_lines(Path(folder)))
    return [{key: _number(value) for key, value in record.items()} for record in found]


class Recorder:
    """Appends to `folder/metrics.jsonl`, and hands its figures to the `trackers`; of their failures `say` is told.

    A run that goes on from `first_step` steps done drops the lines of later steps, which it will write again (0, a
    fresh run, drops all but step 0; see `record.resume`). A line is on the disk when `write` returns. Floats that are
    not finite are written as the strings "nan", "inf" and "-inf", because JSON has no word for them and null would hide
    which one it was. `lines` counts the lines that there are. `settings` are what trackers are told of the run.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        first_step: int,
        trackers: Sequence[str] = DEFAULT,
        settings: Mapping[str, str] | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        steps = resume(place, first_step).steps
        self.lines, self._last = len(steps), max(steps, default=-1)
        self._file = open_append(place / FILE)
        try:
            self._trackers = Trackers(trackers, About(place, first_step, self._last, dict(settings or {})), say)
        except BaseException:
            self._file.close()
            raise

    def write(self, step: int, stage: str, values: Mapping[str, Any], last: bool = True) -> None:
        """Records flat `values` (numbers, or arrays of one number) for `step`; a step that is recorded is not again.

        A line that is not the `last` of several is on the disk with the one after it.
        """
        if step <= self._last:
            return
        self._last, self.lines = step, self.lines + 1
        record = {"step": step, "stage": stage, **{key: _plain(value) for key, value in values.items()}}
        self._file.write(json.dumps(record, allow_nan=False, separators=(", ", ": ")) + "\n")
        if last:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._trackers.write(step, {key: value for key, value in _numbers(record).items() if key != "step"})

    def close(self) -> None:
        """Closes the file and the trackers."""
        try:
            self._file.close()
        finally:
            self._trackers.close()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # What ended the run counts, not that a full disk does not take what is left either.
        with contextlib.suppress(*(() if kind is None else (OSError,))):
            self.close()


def duration(seconds: float) -> str:
    """5 -> "5s", 65 -> "1m05s", 3700 -> "1h02m", 90000 -> "1d01h"."""
    whole = round(max(seconds, 0.0))
    for large, unit, small, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= large:
            return f"{whole // large}{unit}{whole % large // small:02d}{part}"
    return f"{whole}s"


def _count(number: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            return f"{number / (1e3 if letter == 'k' else size):.3g}{letter}"
    return f"{number:.0f}"


def _figure(number: float) -> str:
    return fixed(number, 3 if abs(number) < 10 else 2)


def describe(values: Mapping[str, Any], width: int) -> str:
    """The loss, its terms, the learning rate and the speed on one line of at most `width` characters.

    Where that is too long, terms go by the first word of their name; then the last become "..."; then the rest goes.
    """
    numbers = {key: value for key, value in _numbers(values).items() if not key.startswith(VALIDATION)}
    tail = []
    if "learning_rate" in numbers:
        tail.append(f"lr {numbers['learning_rate']:.2g}")
    if "tokens_per_second" in numbers:
        tail.append(f"{_count(numbers['tokens_per_second'])} tok/s")
    # A figure that is only reported is named TERM/FIGURE; it is in the record, a line has room for the terms.
    terms = {key.removeprefix("train/"): value for key, value in numbers.items() if key not in _NOT_TERMS}
    terms = {name: value for name, value in terms.items() if "/" not in name}
    terms = {"loss": terms.pop("loss"), **terms} if "loss" in terms else terms
    full = [f"{name} {_figure(value)}" for name, value in terms.items()]
    short = [f"{name.split('_')[0]} {_figure(value)}" for name, value in terms.items()]
    cut = [[*short[:kept], "..."] for kept in range(len(short) - 1, 0, -1)]
    lines = ["  ".join(head + tail) for head in (full, short, *cut)] + ["  ".join(short[:1] + tail[:1]), *short[:1]]
    return next((line for line in lines if len(line) <= width), "")


def describe_validation(values: Mapping[str, Any]) -> str:
    """The validation terms on a line of their own, "" without any."""
    found = {
        key.removeprefix(VALIDATION): value for key, value in _numbers(values).items() if key.startswith(VALIDATION)
    }
    parts = [f"{name} {fixed(value, 3)}" for name, value in found.items() if "/" not in name]
    return "  ".join(["validation", *parts]) if parts else ""


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    plain = {key: _number(_plain(value)) for key, value in values.items()}
    return {key: value for key, value in plain.items() if isinstance(value, int | float)}


def in_notebook() -> bool:
    """True in an IPython kernel, whose front end shows widgets and HTML."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in shell.config


def progress_bar(**settings: Any) -> Any:
    """A tqdm bar where someone watches: a widget in a notebook that has ipywidgets, else text on a terminal."""
    with warnings.catch_warnings():
        # Without ipywidgets text is right, and tqdm tells every notebook to install them.
        warnings.filterwarnings("ignore", "IProgress not found")
        from tqdm.auto import tqdm

    return tqdm(**{"disable": False if in_notebook() else None, **settings})


class Progress:
    """Progress on a terminal or in a notebook as a bar, elsewhere as a line for every `update`."""

    def __init__(self, total_steps: int, first_step: int) -> None:
        self._stream = sys.stderr
        self._total, self._first, self._step = total_steps, first_step, first_step
        self._start = time.monotonic()
        self._bar: Any = None
        self._notebook = in_notebook()
        if self._notebook or self._stream.isatty():
            bar = "{bar}" if self._notebook else "{bar:4}"
            # No smoothing: a compilation would colour the estimate for long either way, the mean settles.
            self._bar = progress_bar(
                disable=False,
                total=total_steps,
                initial=first_step,
                file=self._stream,
                dynamic_ncols=True,
                smoothing=0,
                bar_format=f"{{n_fmt}}/{{total_fmt}} |{bar}| {{remaining}} left  {{desc}}",
            )

    @property
    def watched(self) -> bool:
        """True where there is a bar."""
        return self._bar is not None

    def advance(self, step: int) -> None:
        """`step` steps are done; moves the bar, prints no line."""
        if self._bar is not None:
            self._bar.update(step - self._step)
        self._step = step

    def update(self, step: int, stage: str, values: Mapping[str, Any]) -> None:
        """`step` steps are done, with these values; validation values get a line of their own."""
        validation = describe_validation(values)
        if self._bar is not None:
            # The counter, the bar, the time left and the spaces between take the rest.
            columns = NOTEBOOK if self._notebook else shutil.get_terminal_size().columns
            room = columns - 2 * len(str(self._total)) - 27 - len(stage)
            self._bar.set_description_str(f"{stage}  {describe(values, room)}", refresh=False)
            self.advance(step)
            self._bar.refresh()
            if validation:
                self.say(f"{step}/{self._total}  {validation}")
            return
        self.advance(step)
        counter = f"{step:>{len(str(self._total))}}/{self._total}  {stage}  "
        left = f"  {self._left()} left" if step < self._total else f"  took {self._elapsed()}"
        self._stream.write(counter + describe(values, 120 - len(counter) - len(left)) + left + "\n")
        if validation:
            self._stream.write(" " * counter.index(stage) + validation + "\n")
        self._stream.flush()

    def say(self, sentence: str) -> None:
        """Prints a line without tearing the bar."""
        bar = self._bar
        with contextlib.nullcontext() if bar is None else type(bar).external_write_mode(file=self._stream):
            self._stream.write(sentence + "\n")
            self._stream.flush()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    def _elapsed(self) -> str:
        return duration(time.monotonic() - self._start)

    def _left(self) -> str:
        done = self._step - self._first
        if done <= 0:
            return "?"
        return duration((time.monotonic() - self._start) / done * (self._total - self._step))
