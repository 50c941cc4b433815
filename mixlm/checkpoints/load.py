"""Parameters of a run for scoring and decoding, from one of its checkpoints, by default the newest."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from flax.core import meta
from jax.sharding import Mesh

from mixlm.checkpoints.orbax_io import quiet_orbax
from mixlm.checkpoints.run_dir import RunDir, by_name, held_out_by_name
from mixlm.checkpoints.saving import Checkpoints
from mixlm.data.mixture import Mixture
from mixlm.data.sources.auto import Text, source_of
from mixlm.data.sources.text import TextFiles
from mixlm.data.tasks import TextTask
from mixlm.errors import UserError, nearest
from mixlm.parallel.logical_axes import Layout
from mixlm.parallel.mesh import boxed_parameters, parameter_shardings
from mixlm.recipe import Recipe

# Parts of a run's identity that its parameters depend on.
NEEDED = ("networks", "tokens")


def load_params(
    recipe: Recipe, networks: Sequence[str] = ("model",), vocabulary: str | None = None
) -> tuple[int, dict[str, Any]]:
    """Returns (step, parameters by network) of the run in the recipe's folder, on the recipe's mesh.

    The step is that of MODEL_DIR = RUN@STEP or RUN@best, or the newest. Only these networks are read; the others and
    the optimizer's state stay on the disk, and nothing is written. `vocabulary` is the fingerprint of the one
    in use. Raises UserError where the folder holds no run, a run of other networks or another vocabulary, or no such
    whole checkpoint.
    """
    check_networks(recipe, networks)
    folder = RunDir(recipe.folder)
    check_run(recipe, vocabulary)
    layout = recipe.partitioning.layout()
    shapes = {name: abstract_params(recipe.networks[name], layout) for name in networks}
    checkpoints = Checkpoints(folder.checkpoints)
    with quiet_orbax():
        found = checkpoints.restore_params(shapes, checkpoints.resolve(recipe.ref, recipe.best))
    if found is None:
        raise UserError(f"The run {folder.path} has no checkpoint yet in {folder.checkpoints}; let it train further.")
    return found


def check_networks(recipe: Recipe, networks: Sequence[str]) -> None:
    """Raises UserError for a name that is none of the recipe's networks."""
    for name in networks:
        if name not in recipe.networks:
            known = ", ".join(recipe.networks)
            raise UserError(f"This recipe has no network {name!r}, only {known}.{nearest(name, recipe.networks)}")


def check_run(recipe: Recipe, vocabulary: str | None = None) -> None:
    """Raises UserError unless the recipe's folder holds a run of its networks, tokens and vocabulary."""
    folder = RunDir(recipe.folder)
    if not folder.recipe.exists():
        raise UserError(f"There is no run in {folder.path} (no recipe.json).{nearest_run(folder.path)}")
    held, identity = folder.read_identity(), recipe.identity()
    needed = {name: identity[name] for name in NEEDED}
    if vocabulary is not None and "vocabulary" in held:
        needed["vocabulary"] = vocabulary
    for name, value in needed.items():
        if held.get(name) != value:
            raise UserError(
                f"{folder.path} holds a run with other {name}: give the gin files and bindings that it was "
                f"trained with, or --gin_file={folder.config} alone{by_name(held) if name == 'vocabulary' else ''}."
            )


def check_held_out(recipe: Recipe) -> None:
    """Raises UserError where the recipe holds out other documents of plain text than the run in its folder did."""
    parts = recipe.dataset.parts if isinstance(recipe.dataset, Mixture) else (recipe.dataset,)
    sources = [part.task.source for part in parts if isinstance(part.task, TextTask)]
    texts = [source_of(source) if isinstance(source, Text) else source for source in sources]
    by_content = any(isinstance(text, TextFiles) and text.hold_out_by == "content" for text in texts)
    if by_content and held_out_by_name(recipe.folder):
        raise UserError(
            f"{recipe.folder} was begun by a version before 0.6.0, which held out text by the names of its files, so "
            f"it may have read today's validation text: add --gin.HOLD_OUT_BY=name."
        )


def abstract_params(module: Any, where: Mesh | Layout) -> Any:
    """The shapes of a network's parameters, as jax.ShapeDtypeStruct with the shardings that training gives them."""
    boxed, _ = boxed_parameters(module)
    shardings = parameter_shardings(where, boxed)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        meta.unbox(boxed),
        shardings,
    )


def nearest_run(path: Path) -> str:
    """The nearest run beside the one that was asked for."""
    if not path.parent.is_dir():
        return ""
    return nearest(str(path), [str(run.parent) for run in path.parent.glob("*/recipe.json")])
