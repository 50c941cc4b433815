"""The plan of a study, before it is run: parameters, tokens, FLOPs and repeats of each cell, and a measured time."""

import time
from collections.abc import Callable
from typing import Any

import jax

from mixlm.checkpoints.orbax_io import quiet_orbax
from mixlm.perf.compilation_cache import EXECUTABLES, kept_in
from mixlm.recipe import Recipe
from mixlm.reports.metrics import duration
from mixlm.reports.table import Table
from mixlm.reports.units import count
from mixlm.sweeps.parts import parameters_of
from mixlm.sweeps.states import DONE, state_in
from mixlm.sweeps.sweep import Sweep
from mixlm.training import programs, traced_hparams
from mixlm.training.prepare import PreparedRun, prepare

STEPS = 3  # Ours: timed after one that is not; a step takes the same time whatever its numbers are.


def planned(sweep: Sweep, say: Callable[[str], Any] = print) -> Table:
    """A row for each cell: parameters, steps, tokens, repeats, FLOPs, and the seconds that its steps take here.

    The step of each distinct shape is compiled and timed on this machine; validation, checkpoints and evaluations come
    on top. Nothing is written into the study's folder.
    """
    rows, timed = [], _Timed()
    recipes = sweep.check()
    with quiet_orbax(), programs.kept():
        for cell in sweep.cells:
            recipe = recipes[cell.name]
            with kept_in(recipe.dataset.cache / EXECUTABLES):
                figures = _figures(recipe, timed, say)
            rows.append({"cell": cell.name, "status": state_in(sweep.folder, cell.name), **figures})
    return Table(rows)


def plan_lines(table: Table, together: str) -> list[str]:
    """The table of a plan, each cell on a line, and what it comes to."""
    heads = ["cell", "status", "parameters", "steps", "tokens", "repeats", "FLOP", "time"]
    lines = [heads]
    for row in table:
        repeats = "-" if row["repeats"] is None else f"{row['repeats']:.2f}"
        figures = [count(row["parameters"]), f"{row['steps']:,}", count(row["tokens"]), repeats, count(row["flops"])]
        lines.append([row["cell"], row["status"], *(text.strip() for text in figures), duration(row["seconds"])])
    widths = [max(len(line[index]) for line in lines) for index in range(len(heads))]
    shown = ["  ".join(f"{text:<{width}}" for text, width in zip(line, widths)).rstrip() for line in lines]
    left = [row for row in table if row["status"] != DONE]
    flops, seconds = sum(row["flops"] for row in left), sum(row["seconds"] for row in left)
    total = f"{len(left)} of {len(table)} cells to train in {together}: {count(flops)}FLOP, about {duration(seconds)}"
    return [*shown, "", f"{total} of steps on this machine, one after another; validation and evaluations come on top."]


class _Timed:
    """Seconds of a step by what is compiled for it."""

    def __init__(self) -> None:
        self._found: list[tuple[Any, float]] = []

    def seconds(self, prepared: PreparedRun, objective: Any) -> float:
        key = (prepared.train_step.program, traced_hparams.hoist(objective)[0])
        for known, seconds in self._found:
            if known[0] is key[0] and known[1] == key[1]:
                return seconds
        executable, state = prepared.train_step[objective], prepared.init_state()
        batch = prepared.shard_batch(prepared.validation_batches[0])
        state, metrics = executable(state, batch, prepared.seed)
        jax.block_until_ready(metrics)
        begun = time.perf_counter()
        for _ in range(STEPS):
            state, metrics = executable(state, batch, prepared.seed)
        jax.block_until_ready(metrics)
        self._found.append((key, (time.perf_counter() - begun) / STEPS))
        return self._found[-1][1]


def _figures(recipe: Recipe, timed: _Timed, say: Callable[[str], Any]) -> dict[str, Any]:
    data: Any = recipe.dataset.prepare(say)
    prepared = prepare(recipe, data)
    try:
        recipe = prepared.recipe
        spans = recipe.stages.spans(recipe.steps)
        line = prepared.train_blocks.figures(recipe.steps, recipe.batch_size)
        return {
            "parameters": parameters_of(recipe),
            "steps": recipe.steps,
            "tokens": line.get("tokens", recipe.steps * recipe.batch_size * recipe.block_length),
            "repeats": line.get("epoch"),
            "flops": prepared.flops_until(recipe.steps),
            "seconds": sum(steps * timed.seconds(prepared, stage.objective) for stage, steps in spans),
        }
    finally:
        prepared.close()
