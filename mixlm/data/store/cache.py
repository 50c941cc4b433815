"""The cache folder: `$MIXLM_CACHE`, or ~/.cache/mixlm."""

import os
from pathlib import Path

from mixlm.paths import local


def cache_folder(cache_dir: str | None) -> Path:
    """`cache_dir`, or else `$MIXLM_CACHE`, or else `~/.cache/mixlm`."""
    if cache_dir:
        return local(cache_dir, "CACHE_DIR")
    return local(os.environ.get("MIXLM_CACHE") or "~/.cache/mixlm", "MIXLM_CACHE")
