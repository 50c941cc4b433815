"""The start and the end of a run, as its journal has them."""

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jax

from mixlm.checkpoints.run_dir import RunDir
from mixlm.errors import Stopped
from mixlm.parallel.processes import is_main
from mixlm.reports.journal import FINISHED, note_end, note_start
from mixlm.training.origin import origin
from mixlm.training.prepare import PreparedRun
from mixlm.training.summary import summary_rows


def begin(prepared: PreparedRun, folder: RunDir, done: int, said: Sequence[str]) -> None:
    """Notes a start after `done` steps, with what was `said` of the checkpoints and the record that it goes on from."""
    where = origin() | {"processes": str(jax.process_count()), "jax": jax.__version__}
    note_start(folder.path, done, where, summary_rows(prepared), said)


@contextmanager
def noted(prepared: PreparedRun, folder: RunDir, done: int, said: Sequence[str]) -> Iterator[None]:
    """The start of a run, and its end: its completion, the signal that stopped it, or the error that it raises."""
    if not is_main():
        yield
        return
    begin(prepared, folder, done, said)
    how = FINISHED
    try:
        yield
    except BaseException as error:
        sentence = " ".join(str(error).split())
        how = sentence if isinstance(error, Stopped) else f"{type(error).__name__}: {sentence}"
        raise
    finally:
        # What ended the run counts, not that a full disk does not take a word of it.
        with contextlib.suppress(OSError, ValueError):
            note_end(folder.path, how)
