"""The origin of a run: mixlm's version, the commit of a checkout, and the devices."""

import subprocess
from functools import cache
from pathlib import Path

import jax

import mixlm


@cache
def commit() -> str:
    """The commit of mixlm's own checkout, with + where files differ from it; "" for an installed package."""
    root = Path(mixlm.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return ""
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run([*git, "status", "--porcelain", "mixlm"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def origin() -> dict[str, str]:
    """The version, commit and devices of this process."""
    devices = jax.devices()
    return {
        "version": mixlm.__version__,
        "commit": commit(),
        "device": f"{len(devices)} x {devices[0].device_kind}",
    }
