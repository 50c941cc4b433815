"""The user's module that registers seqio Tasks: found by name or file, and imported once."""

import hashlib
import importlib
import importlib.util
import os
import pkgutil
import sys
import traceback
from importlib.machinery import ModuleSpec
from pathlib import Path

from mixlm.errors import UserError, nearest
from mixlm.paths import local


def files_of(module: str) -> list[Path]:
    """The source files of a module, of a package all of them, without importing any; UserError where there is none."""
    if (path := _file(module)) is not None:
        return [path]
    spec = _spec(module)
    if spec is None:
        parent, _, last = module.rpartition(".")
        found = _spec(parent) if parent else None
        siblings = pkgutil.iter_modules((found and found.submodule_search_locations) or ([] if parent else None))
        raise UserError(f"There is no module {module!r}.{nearest(last, [entry.name for entry in siblings])}")
    if spec.submodule_search_locations:
        return sorted(path for place in spec.submodule_search_locations for path in Path(place).rglob("*.py"))
    return [Path(spec.origin)] if spec.origin and Path(spec.origin).exists() else []


def imported(module: str) -> None:
    """Imports the module, once; raises UserError with the place where it fails."""
    files_of(module)
    try:
        if _names_a_file(module):
            _import_file(local(module, "TASK_MODULE").resolve())
        else:
            if _spec(module) is None:
                sys.path.append(os.getcwd())
            importlib.import_module(module)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{type(error).__name__} in line {frame.lineno} of {frame.filename}"
        raise UserError(f"{module!r} cannot be imported: {place}: {_sentence(error)}.") from error


def _import_file(path: Path) -> None:
    name = f"mixlm_tasks_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    # Its neighbours are what it may import, as if it had been started itself.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[name] = found
    try:
        spec.loader.exec_module(found)
    except BaseException:
        del sys.modules[name]
        raise


def _file(module: str) -> Path | None:
    """The .py file that is meant: one by its name, or a module of the working folder that Python does not look in."""
    path = local(module, "TASK_MODULE")
    if _names_a_file(module):
        if not path.is_file():
            siblings = [str(other) for other in path.parent.glob("*.py")]
            raise UserError(f"There is no file {module!r}.{nearest(module, siblings)}")
        return path
    own = Path(f"{module.replace('.', '/')}.py")
    return own if _spec(module) is None and own.is_file() else None


def _names_a_file(module: str) -> bool:
    return module.endswith(".py") or "/" in module


def _spec(module: str) -> ModuleSpec | None:
    """The spec of a module; unlike importlib's own function this imports no parent."""
    places, spec = None, None
    names = module.split(".")
    for depth in range(1, len(names) + 1):
        name = ".".join(names[:depth])
        finders = (getattr(finder, "find_spec", None) for finder in sys.meta_path)
        spec = next((found for find in finders if find and (found := find(name, places)) is not None), None)
        if spec is None:
            return None
        places = spec.submodule_search_locations or []
    return spec


def _sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else "it gives no reason"
