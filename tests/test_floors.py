"""The house has floors: a module imports what is on its own floor or below, and never in a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "mixlm"
FLOORS = {
    0: "example tokens errors paths axes shards blockwise corruption losses schedules flops traced chips hlo "
    "collectives rounds host_memory softmax",
    1: "models.* data.* interop.*",
    2: "objectives.*",
    3: "step curriculum partitioning checkpoint contents wholeness optim muon metrics curves compiled folder retention "
    "address wire peers processes signals per_layer topology accounting profile",
    4: "recipe origin plan train loop evaluate samples report restored aot scoring.* decoding.*",
}
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names.split()}
# Not even on the floor below: objectives get networks as callables, and the host's side knows no device.
NEVER = {"objectives": ("models", "data"), "data": ("models", "objectives"), "models": ("data", "objectives")}
OUTSIDE_FUNCTIONS_NEVER = ("tensorflow", "tensorflow_datasets", "seqio", "matplotlib", "tensorboardX")


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name without `mixlm.`."""
    paths = [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


MODULES = modules()


def floor(name: str) -> int | None:
    """The floor of a module, or of its folder; None where the table does not know it."""
    folder = name.split(".")[0]
    return FLOOR.get(name, FLOOR.get(f"{folder}.*") if (ROOT / folder).is_dir() else None)


def imported(tree: ast.Module) -> list[tuple[str, bool]]:
    """The dotted names that a module imports (`from a import b` is a.b), each with whether a function does it."""
    found = []

    def visit(node: ast.AST, inside: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend((alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that a reader sees the floor"
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
    """What a module imports against the rules of the house."""
    found = []
    for target, inside in imported(tree):
        root, module = target.split(".")[0], own(target)
        if module is not None and floor(module) > floor(name):
            found.append(f"{name} (floor {floor(name)}) imports {module} (floor {floor(module)})")
        if module is not None and module.split(".")[0] in NEVER.get(name.split(".")[0], ()):
            found.append(f"{name} imports {module}")
        if root == "gin" or (root in ("jax", "flax") and name.startswith("data")):
            found.append(f"{name} imports {root}")
        if root in OUTSIDE_FUNCTIONS_NEVER and not inside:
            found.append(f"{name} imports {root} outside of a function")
    return found


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_a_floor(name):
    assert floor(name) is not None, f"mixlm.{name} is new: give it a floor in this file's table"


def test_every_floor_has_its_modules():
    named = [name for name in FLOOR if not name.endswith(".*")]
    assert [name for name in named if name not in MODULES] == []


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down(name):
    assert breaches(name, ast.parse(MODULES[name].read_text(encoding="utf-8"))) == []


def test_no_module_imports_itself_in_a_circle():
    graph = {
        name: {own(target) for target, _ in imported(ast.parse(path.read_text(encoding="utf-8")))} - {None, name}
        for name, path in MODULES.items()
    }
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


@pytest.mark.parametrize(
    ("name", "source", "breach"),
    [
        ("losses", "from mixlm.optim import Adafactor", "losses (floor 0) imports optim (floor 3)"),
        ("data.store", "def f():\n    from mixlm import step", "data.store (floor 1) imports step (floor 3)"),
        ("step", "import mixlm.train", "step (floor 3) imports train (floor 4)"),
        ("objectives.causal", "from mixlm.models import t5", "objectives.causal imports models.t5"),
        ("models.t5", "from mixlm.data.store import TokenStore", "models.t5 imports data.store"),
        ("data.tasks", "def f():\n    import jax.numpy as jnp", "data.tasks imports jax"),
        ("train", "def f():\n    import gin", "train imports gin"),
        ("curves", "import matplotlib.pyplot as plt", "curves imports matplotlib outside of a function"),
        ("data.tasks", "from seqio import Task", "data.tasks imports seqio outside of a function"),
    ],
)
def test_a_breach_is_seen(name, source, breach):
    assert breaches(name, ast.parse(source)) == [breach]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("train", "from mixlm import report\nfrom mixlm.step import Step"),
        ("curves", "def f():\n    from matplotlib import pyplot"),
        ("data.tasks", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import seqio"),
        ("data.store", "import jaxtyping"),
    ],
)
def test_what_is_allowed_is_no_breach(name, source):
    assert breaches(name, ast.parse(source)) == []
