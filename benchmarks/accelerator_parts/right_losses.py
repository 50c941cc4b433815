"""Every objective of the seven recipes: its loss terms and gradient on the device against the CPU's.

Both have the same parameters, rows and keys; networks are the recipes' small ones with two layers. In float32 at the
highest precision, a term may differ by `TERM` of itself and the gradient by `GRADIENT` in norm. At the default
precision of products (TF32 on a GPU, one pass of bfloat16 on a TPU) the same figures are what the default costs.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from record import Record

from mixlm.gin_config.build import load
from mixlm.losses.terms import weighted_sum
from mixlm.network import bind
from mixlm.objectives.base import batch_columns
from mixlm.parallel.logical_axes import Layout, under
from mixlm.parallel.mesh import Partitioning, replicated
from mixlm.recipe import Recipe
from mixlm.rng import row_keys
from mixlm.training.initial_state import initial_state

# Ours: float32 sums in another order, through two layers; a rare token of a generator may fall the other way.
TERM, GRADIENT = 2e-5, 2e-4
AHEAD = 3  # cases that compile meanwhile
QUICK = {"xla_backend_optimization_level": 0}
RECIPES = ("dual", "spactor", "mile", "ar2diff", "antlm", "gpt_bert", "antlm_ltg_bert")
SHRUNK = {"num_layers": 2, "num_encoder_layers": 2, "num_decoder_layers": 2}


@dataclass(frozen=True)
class Losses:
    """`losses(params, batch)`: an objective's terms and gradient at step 0 of seed 0, without dropout."""

    modules: tuple[tuple[str, Any], ...]
    objective: Any

    def __call__(self, params: Any, batch: Any) -> Any:
        """(The terms' means and the loss, the gradient)."""
        keys, step = row_keys(0, 0, batch["tokens"].shape[0]), jnp.int32(0)
        batch = dict(batch) | batch_columns(self.objective, keys, step)

        def loss(params: Any) -> Any:
            terms = self.objective(bind(dict(self.modules), params), batch, keys, step)
            return weighted_sum(terms), {name: term.value for name, term in terms.items()}

        (value, terms), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return terms | {"loss": value}, gradient


def cases(record: Record, pool: Executor) -> Iterator[None]:
    """Runs the cases, the next ones compiling meanwhile; yields after each."""
    layouts = {place: Partitioning().layout(jax.devices(place)[:1]) for place in ("cpu", jax.default_backend())}
    begun: deque[tuple[str, Callable[[], dict[str, Any]]]] = deque()
    for name in RECIPES[: 1 if record.tiny else None]:
        if any(record.wants(f"losses/{name}/{index}") for index in range(2)):
            begun.extend(_begun(name, layouts, pool, record))
        while len(begun) > AHEAD:
            record.case(*begun.popleft())
            yield
    for each in begun:
        record.case(*each)
        yield


def _begun(name: str, layouts: dict[str, Layout], pool: Executor, record: Record) -> list[tuple[str, Any]]:
    """The cases of a recipe, compiling."""
    try:
        recipe = load(f"{name}.gin")
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}"[:600]}
        return [(f"losses/{name}/0", lambda: found)]
    objectives = [(f"losses/{name}/{index}", each) for index, each in enumerate(recipe.curriculum.distinct)]
    return [
        (case, partial(_judged, each.name, _figures(recipe, each, layouts, pool)))
        for case, each in objectives
        if record.wants(case)
    ]


def _figures(recipe: Recipe, objective: Any, layouts: dict[str, Layout], pool: Executor) -> list[Future[Any]]:
    """What the CPU computes, what the device computes at the highest precision, and at the default one."""
    modules = tuple((name, _shrunk(module)) for name, module in recipe.modules if name in objective.networks)
    rng, shape = np.random.default_rng(0), (recipe.batch_size, recipe.block_length)
    vocabulary = recipe.tokens.vocab_size
    batch = {"tokens": rng.integers(100, vocabulary - 200, shape).astype(np.int32)}
    if recipe.before:
        batch["previous"] = rng.integers(100, vocabulary - 200, shape[:1]).astype(np.int32)
    _, shapes = initial_state(dict(modules), recipe.optimizer, 0, layouts["cpu"])
    params = jax.tree_util.tree_map_with_path(partial(_drawn, rng), shapes.params)
    here = jax.default_backend()

    def figures(place: str, precision: str | None) -> Any:
        given = jax.device_put((params, batch), replicated(layouts[place]))
        with jax.default_matmul_precision(precision):
            run = jax.jit(under(layouts[place], Losses(modules, objective)))
            return jax.tree.map(np.asarray, run.lower(*given).compile(QUICK if place == "cpu" else None)(*given))

    return [pool.submit(figures, *how) for how in (("cpu", "highest"), (here, "highest"), (here, None))]


def _drawn(rng: np.random.Generator, path: Any, leaf: Any) -> np.ndarray:
    """Parameters away from zero and one, which some begin at, so that everything has a gradient."""
    noise = rng.standard_normal(leaf.shape).astype(np.float32)
    if "scale" in jax.tree_util.keystr(path):
        return 1 + 0.1 * noise
    return noise * (0.5 if leaf.ndim < 2 else leaf.shape[0] ** -0.5)


def _judged(objective: str, made: list[Future[Any]]) -> dict[str, Any]:
    wanted, highest, default = (each.result() for each in made)
    found: dict[str, Any] = {"objective": objective, "loss": float(wanted[0]["loss"])}
    found |= {"highest": _distances(highest, wanted), "default": _distances(default, wanted)}
    found["right"] = found["highest"]["term"] <= TERM and found["highest"]["gradient"] <= GRADIENT
    said = ", ".join(f"{how} {found[how]['term']:.1e} {found[how]['gradient']:.1e}" for how in ("highest", "default"))
    return found | {"said": f"{'right' if found['right'] else 'WRONG'}; term, gradient: {said}"}


def _shrunk(module: Any) -> Any:
    return module.clone(**{name: layers for name, layers in SHRUNK.items() if hasattr(module, name)})


def _distances(found: Any, wanted: Any) -> dict[str, Any]:
    """The largest relative difference of a term that is a loss, by its name, and the gradient's in norm."""
    terms = {
        name: float(abs(found[0][name] - value) / max(abs(value), 1e-6))
        for name, value in wanted[0].items()
        if "/" not in name
    }
    pairs = list(zip(jax.tree.leaves(found[1]), jax.tree.leaves(wanted[1])))
    apart = sum(float(np.sum((a.astype(np.float64) - b) ** 2)) for a, b in pairs)
    whole = sum(float(np.sum(b.astype(np.float64) ** 2)) for _, b in pairs)
    return {"terms": terms, "term": max(terms.values()), "gradient": (apart / whole) ** 0.5}
