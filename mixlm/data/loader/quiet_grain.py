"""Imports Grain without the log line by which it says that an older jaxlib profiles none of its worker processes."""

import logging
from types import ModuleType

SILENCED = "multiprocess worker profiling"  # Ours: mixlm reads on threads; jaxlib 0.7.2, Colab's, is older


def import_grain() -> ModuleType:
    """Returns Grain; training imports it before anything is traced.

    While Grain is imported, etils' lazy imports replace `builtins.__import__` in every thread for a moment; JAX imports
    modules inside of its functions, so tracing at that moment would fail.
    """
    logger = logging.getLogger("absl")
    logger.addFilter(_is_kept)
    try:
        import grain
    finally:
        logger.removeFilter(_is_kept)
    return grain


def _is_kept(record: logging.LogRecord) -> bool:
    return SILENCED not in record.getMessage()
