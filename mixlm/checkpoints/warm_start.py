"""Warm starts: a run that begins with the parameters of another run, of T5X or of PyTorch."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mixlm.checkpoints import from_t5x, from_torch, reader
from mixlm.checkpoints.run_dir import RETOKENISED, RunDir, by_name, was_retokenised
from mixlm.checkpoints.safetensors import is_safetensors
from mixlm.checkpoints.saving import Checkpoints
from mixlm.errors import UserError, nearest
from mixlm.paths import RunRef
from mixlm.recipe import Recipe

# T5X and PyTorch train one network, and do not name it.
FOREIGN_NETWORKS = ("model",)
# What decides which rows a step reads.
WALK = ("seed", "batch_size", "lengths")


@dataclass(frozen=True)
class Foreign:
    """A checkpoint format of another framework: one network's parameters, and nothing of their vocabulary."""

    framework: str
    load: Callable[[Path, Any], Any]  # (place, template) -> parameters


T5X = Foreign("T5X", from_t5x.load_checkpoint)
PYTORCH = Foreign("PyTorch", from_torch.load_file)


@dataclass(frozen=True)
class WarmStart:
    """The checkpoint of `step` in `folder`, of which `networks` are taken; the networks in `afresh` are not in it.

    `held` is the identity of the run there, empty for a `foreign` checkpoint; with `optimizer` the run goes on at
    `step`, with the optimizer's state.
    """

    text: str
    folder: Path
    step: int
    networks: tuple[str, ...]
    afresh: tuple[str, ...]
    optimizer: bool
    held: Mapping[str, str]
    foreign: Foreign | None = None

    @property
    def first(self) -> int:
        """The number of steps that are done where the run begins."""
        return self.step if self.optimizer else 0

    @property
    def name(self) -> str:
        """The folder and the step, as recipe.json keeps them."""
        return f"{self.folder}@{self.step}"

    def described(self, identity: Mapping[str, str]) -> str:
        """The line of the summary; `identity` is the new run's."""
        if self.foreign is not None:
            source = f"{self.foreign.framework}'s {self.folder}"
            return f"with the parameters of {source}, whose vocabulary cannot be checked{self._rest()}"
        if not self.optimizer:
            what = "the parameters" if not self.afresh else " and ".join(self.networks)
            return f"with {what} of {self.name}{self._rest()}"
        walks = [f"{name} {self.held[name]}" for name in WALK if self.held.get(name, identity[name]) != identity[name]]
        other = f"; on another walk over the data than there ({', '.join(walks)})" if walks else ""
        return f"after step {self.step} of {self.folder}, with its optimizer's state{other}"

    def _rest(self) -> str:
        return f"; {' and '.join(self.afresh)} afresh" if self.afresh else ""

    def check(self, fingerprints: Mapping[str, str], steps: int) -> None:
        """Raises UserError for another vocabulary and, where the run goes on, for other data or no step left to train.

        `fingerprints` are the new run's, of its "data" and "vocabulary"; what it does not know is not compared.
        """
        if self._differs("vocabulary", fingerprints):
            raise UserError(
                f"INIT_FROM = {self.text!r} was trained with another vocabulary, so its tokens mean other words: give "
                f"it the same{by_name(self.held)}."
            )
        if self.optimizer and self._differs("data", fingerprints):
            if was_retokenised(self.held):
                raise UserError(
                    f"INIT_FROM = {self.text!r} cannot go on at step {self.step}, as {RETOKENISED}: begin with the "
                    f"parameters alone (INIT_OPTIMIZER=False)."
                )
            raise UserError(
                f"INIT_FROM = {self.text!r} was trained on other data, so this run cannot go on at step {self.step}: "
                f"give it the same, or begin with the parameters alone (INIT_OPTIMIZER=False)."
            )
        if self.first >= steps:
            raise UserError(
                f"INIT_FROM = {self.text!r} goes on after step {self.step}, and this run ends after step {steps} "
                f"(TRAIN_STEPS)."
            )

    def _differs(self, name: str, fingerprints: Mapping[str, str]) -> bool:
        held, here = self.held.get(name), fingerprints.get(name)
        return held is not None and here is not None and held != here

    def state(self, create: Any, abstract_state: Any) -> Any:
        """The state that the run begins with, on the mesh of `abstract_state`; `create()` initialises a fresh one."""
        shapes = {name: abstract_state.params[name] for name in self.networks}
        if self.foreign is not None:
            taken = {name: placed(self.foreign.load(self.folder, shape), shape) for name, shape in shapes.items()}
        else:
            folder = RunDir(self.folder).checkpoints / str(self.step)
            if self.optimizer:
                return reader.read_state(folder, abstract_state)
            taken = reader.read_params(folder, shapes)
        state = create()
        return state.replace(params=state.params | taken)

    def note(self) -> dict[str, Any]:
        """The checkpoint's own record of the steps before it, where the run counts them as its own."""
        return Checkpoints(RunDir(self.folder).checkpoints).note(self.step) if self.optimizer else {}


def find_warm_start(recipe: Recipe, began: str | None = None) -> WarmStart | None:
    """The checkpoint that INIT_FROM names, None where the run begins afresh.

    `began` is the name of the one that an earlier start of this run took, whose step is kept to.

    Raises UserError where INIT_FROM holds no such checkpoint, or one of other networks.
    """
    text = recipe.init_from
    if text is None:
        if recipe.init_optimizer:
            raise UserError("INIT_OPTIMIZER takes the optimizer's state from INIT_FROM, which names no run.")
        return None
    ref = RunRef.parse(text, "INIT_FROM")
    if began is not None:
        ref = RunRef(ref.folder, step_of(began))
    if not RunDir(ref.folder).recipe.exists():
        found = _from_torch(recipe, text, ref) if is_safetensors(ref.folder) else _from_t5x(recipe, text, ref)
        if found is None:
            siblings = [str(path.parent) for path in ref.folder.parent.glob("*/recipe.json")]
            raise UserError(f"INIT_FROM = {text!r} holds no run with a checkpoint.{nearest(str(ref.folder), siblings)}")
        return found
    folder = RunDir(ref.folder)
    held, checkpoints = folder.read_identity(), Checkpoints(folder.checkpoints)
    step = checkpoints.whole(checkpoints.resolve(ref, recipe.best))
    if step is None:
        raise UserError(f"INIT_FROM = {text!r} holds no run with a checkpoint.")
    if recipe.init_optimizer and held.get("scan_layers") != recipe.identity().get("scan_layers"):
        raise UserError(
            f"INIT_OPTIMIZER goes on with the state of {text!r}, which has other SCAN_LAYERS: give this run "
            f"the same, or begin with the parameters alone (INIT_OPTIMIZER=False)."
        )
    networks, afresh = _shared(recipe, text, reader.networks(folder.checkpoints / str(step)))
    return WarmStart(text, ref.folder, step, networks, afresh, recipe.init_optimizer, held)


def _shared(recipe: Recipe, text: str, written: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The networks that are taken, and those that are initialised."""
    taken = tuple(name for name in recipe.networks if name in written)
    afresh = tuple(name for name in recipe.networks if name not in written)
    if not taken:
        raise UserError(
            f"INIT_FROM = {text!r} holds none of this run's networks ({', '.join(recipe.networks)}), only "
            f"{', '.join(written) or 'none'}."
        )
    if recipe.init_optimizer and (afresh or set(written) != set(taken)):
        others = [name for name in written if name not in taken]
        wrong = f"lacks {' and '.join(afresh)}" if afresh else f"holds {' and '.join(others)} as well"
        raise UserError(
            f"INIT_FROM = {text!r} {wrong}, and INIT_OPTIMIZER goes on with exactly this run's networks "
            f"({', '.join(recipe.networks)}): begin with the parameters alone (INIT_OPTIMIZER=False)."
        )
    return taken, afresh


def _from_t5x(recipe: Recipe, text: str, ref: RunRef) -> WarmStart | None:
    """The T5X checkpoint that the ref names, None where its folder holds none."""
    found = from_t5x.checkpoints_in(ref.folder)
    if not found:
        return None
    _check_parameters_alone(recipe, text, T5X)
    step = max(found) if ref.which is None else ref.which
    if step not in found:
        kept = ", ".join(map(str, sorted(found)))
        raise UserError(f"INIT_FROM = {text!r}: {ref.folder} holds T5X's checkpoints of step {kept} alone.")
    networks, afresh = _shared(recipe, text, list(FOREIGN_NETWORKS))
    return WarmStart(text, found[step], step, networks, afresh, False, {}, T5X)


def _from_torch(recipe: Recipe, text: str, ref: RunRef) -> WarmStart:
    """The safetensors file that the ref names, which has no step."""
    if not ref.folder.is_file():
        siblings = [str(path) for path in ref.folder.parent.glob("*") if is_safetensors(path)]
        raise UserError(f"INIT_FROM = {text!r} is no file.{nearest(str(ref.folder), siblings)}")
    _check_parameters_alone(recipe, text, PYTORCH)
    networks, afresh = _shared(recipe, text, list(FOREIGN_NETWORKS))
    return WarmStart(text, ref.folder, 0, networks, afresh, False, {}, PYTORCH)


def _check_parameters_alone(recipe: Recipe, text: str, foreign: Foreign) -> None:
    if recipe.init_optimizer:
        raise UserError(
            f"INIT_FROM = {text!r} is a {foreign.framework} checkpoint, of which the parameters alone are read: "
            "INIT_OPTIMIZER=False."
        )


def step_of(began: str) -> int:
    """The step in a run's record of where it began, FOLDER@STEP."""
    step = began.rpartition("@")[2]
    if not re.fullmatch("[0-9]{1,18}", step):
        raise UserError(f"The record of where this run began ({began[-80:]!r} in its recipe.json) is damaged.")
    return int(step)


def placed(params: Any, shapes: Any) -> Any:
    """Host arrays on the mesh, in the network's types."""

    def place(array: np.ndarray, shape: jax.ShapeDtypeStruct) -> jax.Array:
        whole = np.asarray(array, shape.dtype)
        return jax.make_array_from_callback(shape.shape, shape.sharding, lambda index: whole[index])

    return jax.tree.map(place, params, shapes)
