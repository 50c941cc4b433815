"""Directions of imports: a folder of mixlm imports only the folders to its left in ROOMS, and never in a circle."""

import ast
from collections.abc import Iterable
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from support.places import ROOT

PACKAGE = ROOT / "mixlm"
# A room is a folder of mixlm/, or one of the few modules that lie flat in it; it imports only what is to its left.
ROOMS = (  # noqa: SIM905
    "errors paths files tokens example values schedules rng params network parallel perf reports analysis losses optim "
    "models data objectives recipe checkpoints decoding evaluation training gin_config sweeps api interop cli __main__"
).split()
FLAT = 12  # modules directly in mixlm/, __init__ among them
ONLY_IN = {"gin": "gin_config"}  # the one room that may import a library
NEVER = {"models": ("models",), "jax": ("data",), "flax": ("data",)}  # models are for gin files; data is host only
IN_FUNCTIONS_ONLY = (
    "tensorflow",
    "tensorflow_datasets",
    "seqio",
    "matplotlib",
    "tensorboardX",
    "pandas",
    "submitit",
    "sklearn",
    "scipy",
    "sacrebleu",
    "rouge_score",
    "plotly",
    "wandb",
    "mlflow",
    "trackio",
    "torch",
    "transformers",
    "tokenizers",
)
EXPORTED = ("interop.hf.modeling_mixlm",)  # written beside weights for transformers; nothing here imports it


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name without `mixlm.`."""
    paths = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


MODULES = modules()


def imported(tree: ast.Module) -> list[tuple[str, bool]]:
    """The dotted names that a module imports (`from a import b` is a.b), each with whether it does so in a function."""
    found = []

    def visit(node: ast.AST, inside: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend((alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that a reader sees the room"
            found.extend((f"{node.module}.{alias.name}", inside) for alias in node.names)
        is_type_checking = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        within = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_type_checking
        for child in ast.iter_child_nodes(node):
            visit(child, within)

    visit(tree, False)
    return found


def own(name: str) -> str | None:
    """The module of this package that an imported dotted name lies in."""
    parts = name.split(".")
    if parts[0] != "mixlm":
        return None
    for end in range(len(parts), 1, -1):
        if ".".join(parts[1:end]) in MODULES:
            return ".".join(parts[1:end])
    return None


def breaches(name: str, tree: ast.Module) -> list[str]:
    """What a module imports against the directions."""
    room, found = name.split(".")[0], []
    for target, inside in imported(tree):
        library, module = target.split(".")[0], own(target)
        there = None if module is None else module.split(".")[0]
        if there is not None and there != room:
            if ROOMS.index(there) > ROOMS.index(room):
                found.append(f"{name} imports {module}, a room to its right")
            if there in NEVER:
                found.append(f"{name} imports {module}, which is for gin files alone")
        if ONLY_IN.get(library, room) != room or room in NEVER.get(library, ()):
            found.append(f"{name} imports {library}")
        if library in IN_FUNCTIONS_ONLY and not inside and name not in EXPORTED:
            found.append(f"{name} imports {library} outside of a function")
    return found


def test_every_folder_is_a_room_and_every_room_is_there():
    assert {name.split(".")[0] for name in MODULES} == set(ROOMS)


def reached(names: Iterable[str]) -> dict[str, ast.Module]:
    """These modules and all that importing them imports, packages included."""
    found: dict[str, ast.Module] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in MODULES and name not in found:
            found[name] = ast.parse(MODULES[name].read_text(encoding="utf-8"))
            waiting += [own(target) or "" for target, inside in imported(found[name]) if not inside]
            waiting += [name.rpartition(".")[0]]
    return found


def test_nothing_that_data_import_imports_jax():
    for name, tree in reached(name for name in MODULES if name.split(".")[0] == "data").items():
        libraries = {target.split(".")[0] for target, inside in imported(tree) if not inside}
        assert not libraries & {"jax", "flax"}, f"{name} is imported by data, and imports JAX"


def test_few_modules_are_flat():
    assert len(list(PACKAGE.glob("*.py"))) <= FLAT


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_to_the_left(name):
    assert breaches(name, ast.parse(MODULES[name].read_text(encoding="utf-8"))) == []


def test_no_module_imports_itself_in_a_circle():
    graph = {}
    for name, path in MODULES.items():
        targets = {own(target) for target, _ in imported(ast.parse(path.read_text(encoding="utf-8")))}
        # A package's __init__ hands on the names of its modules, which know nothing of it.
        graph[name] = {target for target in targets - {None, name} if not name.startswith(f"{target}.")}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


@pytest.mark.parametrize("room", [path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()])
def test_every_room_has_its_tests(room):
    assert list((ROOT / "tests" / room).glob("test_*.py")), f"tests/{room} holds no test"


@pytest.mark.parametrize(
    ("name", "source", "breach"),
    [
        ("losses.score", "from mixlm.optim import Adafactor", "losses.score imports optim, a room to its right"),
        (
            "data.dataset",
            "def f():\n    from mixlm.training import step",
            "data.dataset imports training.step, a room to its right",
        ),
        (
            "training.step",
            "from mixlm.models import t5",
            "training.step imports models.t5, which is for gin files alone",
        ),
        ("data.tasks", "def f():\n    import jax.numpy as jnp", "data.tasks imports jax"),
        ("training.run", "def f():\n    import gin", "training.run imports gin"),
        (
            "reports.curves",
            "import matplotlib.pyplot as plt",
            "reports.curves imports matplotlib outside of a function",
        ),
        ("data.tasks", "from seqio import Task", "data.tasks imports seqio outside of a function"),
    ],
)
def test_a_breach_is_seen(name, source, breach):
    assert breaches(name, ast.parse(source)) == [breach]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("training.run", "from mixlm.training import report\nfrom mixlm.training.step import TrainStep"),
        ("reports.curves", "def f():\n    from matplotlib import pyplot"),
        ("data.tasks", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import seqio"),
        ("data.dataset", "import jaxtyping"),
        ("models.t5", "from mixlm.models.layers import Dense"),
        ("gin_config.build", "import gin"),
    ],
)
def test_what_is_allowed_is_no_breach(name, source):
    assert breaches(name, ast.parse(source)) == []
