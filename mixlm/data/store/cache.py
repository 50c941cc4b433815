"""The cache folder: `$MIXLM_CACHE`, or ~/.cache/mixlm."""

import os
from pathlib import Path


def cache_folder(cache_dir: str | None) -> Path:
    """`cache_dir`, or else `$MIXLM_CACHE`, or else `~/.cache/mixlm`."""
    return Path(cache_dir or os.environ.get("MIXLM_CACHE") or "~/.cache/mixlm").expanduser()
