"""XLA executables kept on disk, so that a step is compiled once per machine."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

# Ours: an executable that took at least so many seconds to compile is kept.
MIN_SECONDS = 0.2
EXECUTABLES = "executables"  # the folder of a data cache that holds them
SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",  # JAX sets it when it opens a cache
)


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Within this, executables are read from and written to `folder`; afterwards JAX's settings are as before.

    JAX decides once, at its first compilation, whether and where it keeps executables, so its cache is reset where the
    folder changes.
    """
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    _use(before | dict(zip(SETTINGS, (str(folder), MIN_SECONDS))))
    try:
        yield
    finally:
        _use(before)


def _use(settings: Mapping[str, object]) -> None:
    moved = getattr(jax.config, SETTINGS[0]) != settings[SETTINGS[0]]
    for name, value in settings.items():
        jax.config.update(name, value)
    if moved:
        compilation_cache.reset_cache()
