"""The gin files that come with mixlm: where they are, the recipes among them, and the macros of a folder."""

import re
from pathlib import Path


def gin_folder() -> Path:
    """Returns the folder of the recipes and their parts: mixlm/gin_files of a wheel, or gin/ of a checkout."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "gin_files"
    return packaged if packaged.is_dir() else package.parent / "gin"


def studies_folder() -> Path:
    """Returns the folder of the study files: studies/ of a checkout, or in a wheel a folder beside the recipes."""
    packaged = gin_folder() / "studies"
    return packaged if packaged.is_dir() else gin_folder().parent / "studies"


def recipe_names() -> list[str]:
    """Returns the files on top of that folder that name a recipe, without resolving what they import."""
    files = sorted(gin_folder().glob("*.gin"))
    return [path.name for path in files if "\nRECIPE = " in path.read_text(encoding="utf-8")]


def macros_of(folder: Path) -> set[str]:
    """Returns the names of all macros that a gin file in `folder` gives a value."""
    paths = (path for path in folder.rglob("*.gin") if path.parent != studies_folder())
    texts = (path.read_text(encoding="utf-8") for path in paths)
    return {name for text in texts for name in re.findall(r"^([A-Za-z_]\w*) = ", text, re.MULTILINE)}
