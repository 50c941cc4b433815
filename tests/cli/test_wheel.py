"""The wheel is all that a user needs: gin files, console script, and a recipe explained outside of the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from email.parser import Parser

import pytest
from support.places import GIN, ROOT

from mixlm import __version__

BUILD = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder of the wheel's files, as pip lays them out, built from a copy of the checkout."""
    checkout, out = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("wheel")
    for name in ("mixlm", "gin", "studies"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    subprocess.run([*BUILD, "--wheel-dir", out, checkout], check=True, timeout=300)
    (wheel,) = out.glob(f"mixlm-{__version__}-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out / "site")
    return out / "site"


def test_the_wheel_holds_every_gin_file_and_module_and_nothing_else(installed):
    def files(folder, *endings):
        return {path.relative_to(folder) for path in folder.rglob("*") if path.suffix in endings}

    studies = {path.relative_to(ROOT) for path in (ROOT / "studies").glob("*.gin")}
    assert files(installed / "mixlm" / "gin_files", ".gin") == files(GIN, ".gin") | studies
    assert files(installed / "mixlm", ".py", ".typed", ".css") == files(ROOT / "mixlm", ".py", ".typed", ".css")
    assert {path.name for path in installed.iterdir()} == {"mixlm", f"mixlm-{__version__}.dist-info"}


def test_the_wheel_names_the_command_and_carries_readme_and_licence(installed):
    (notes,) = installed.glob("*.dist-info")
    commands = ConfigParser()
    commands.read(notes / "entry_points.txt")
    assert dict(commands["console_scripts"]) == {"mixlm": "mixlm.cli.main:main"}
    metadata = Parser().parsestr((notes / "METADATA").read_text(encoding="utf-8"))
    assert metadata["License-Expression"] == "Apache-2.0" and (notes / "licenses" / "LICENSE").is_file()
    assert metadata.get_payload().strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()
    assert set(metadata.get_all("Provides-Extra")) == {
        "slurm",
        "notebooks",
        "peers",
        "cuda12",
        "cuda13",
        "tpu",
        "report",
        "metrics",
        "data",
        "hf",
        "lm-eval",
        "wandb",
        "mlflow",
        "trackio",
        "docs",
        "test",
    }


def test_a_recipe_of_the_wheel_is_explained_outside_of_the_checkout(installed, corpus, tmp_path):
    code = "import mixlm, mixlm.cli.main; print(mixlm.__file__); mixlm.cli.main.main()"
    flags = ("explain", "--gin_file=mile.gin", f"--text={corpus}", "--gin.VOCAB_SIZE=112", "--gin.EMB_DIM=16")
    flags += ("--gin.TokenIds.sentinels=20", "--gin.TrainedSentencePiece.sentinels=20", "--gin.TRAIN_STEPS=300")
    done = subprocess.run(
        [sys.executable, "-c", code, *flags],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[0] == str(installed / "mixlm" / "__init__.py")
    assert any(line.startswith("recipe        mile, seed 0") for line in lines)
    assert list(tmp_path.iterdir()) == []
