"""A run's folder: what lies where, and whose run it is."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from mixlm.errors import UserError


class RunFolder:
    """`recipe.json` (whose run it is), `config.gin`, `metrics.jsonl`, `tensorboard/`, `checkpoints/`, `curves.png`."""

    def __init__(self, path: Path):
        self.path = path
        self.recipe, self.config = path / "recipe.json", path / "config.gin"
        self.checkpoints, self.curves, self.samples = path / "checkpoints", path / "curves.png", path / "samples.txt"

    def check(self, identity: Mapping[str, str]) -> None:
        """Raises UserError where the folder holds a run of another identity, or files and no run; writes nothing."""
        if not self.recipe.exists():
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise UserError(
                    f"{self.path} exists and is no run's folder (it has no recipe.json); choose another MODEL_DIR."
                )
            return
        try:
            held = dict(json.loads(self.recipe.read_text()).items())
        except (ValueError, AttributeError) as error:
            raise UserError(f"{self.recipe} is damaged ({error}), so whose run it is cannot be told.") from error
        differing = [name for name in {**held, **identity} if held.get(name) != identity.get(name)]
        if differing:
            raise UserError(
                f"{self.path} holds another run, with {', '.join(_difference(n, held, identity) for n in differing)}; "
                f"give this one a folder of its own with --gin.MODEL_DIR=FOLDER."
            )

    def claim(self, identity: Mapping[str, str], config: str) -> None:
        """Makes the folder this run's; `config` is written anew at every start, as periods and meshes may change."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            _write(self.recipe, json.dumps(dict(identity), indent=1))
            _write(self.config, config)
        except OSError as error:
            raise UserError(f"{self.path} cannot be written to: {error.strerror}.") from error


def _difference(name: str, held: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    before, now = held.get(name, "none"), wanted.get(name, "none")
    if len(before) + len(now) < 60:
        return f"{name} {before} instead of {now}"
    start = next((i for i, (a, b) in enumerate(zip(before, now)) if a != b), 0)
    start = max(before.rfind("(", 0, start), before.rfind(" ", 0, start)) + 1
    return f"{name} ...{before[start : start + 40]}... instead of ...{now[start : start + 40]}..."


def _write(path: Path, text: str) -> None:
    """All of it or nothing."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)
