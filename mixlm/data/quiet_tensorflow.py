"""Imports TensorFlow and seqio without log lines on stderr, and without GPU memory being reserved."""

import contextlib
import os
import sys
from collections.abc import Iterator
from types import ModuleType


def import_tensorflow() -> ModuleType:
    """Returns TensorFlow, imported quietly and with no GPU visible to it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _silenced_stderr():
        import tensorflow as tf

        # Raises where TensorFlow is already initialised: then its devices are the caller's choice.
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], "GPU")
    return tf


def import_seqio() -> ModuleType:
    """Returns seqio, imported quietly after TensorFlow."""
    import_tensorflow()
    with _silenced_stderr():
        import seqio
    return seqio


@contextlib.contextmanager
def _silenced_stderr() -> Iterator[None]:
    # TensorFlow's C++ logs to the file descriptor before it reads any setting. Exceptions still propagate.
    sys.stderr.flush()
    saved, devnull = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(devnull)
