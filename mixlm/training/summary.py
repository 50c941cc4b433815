"""The lines a run opens with (sizes, data, repeats, stages, FLOPs, devices), and `--explain`'s examples."""

from typing import Any

import jax

from mixlm.checkpoints.manager import size_in_bytes
from mixlm.data.loader.streaming import StreamedData
from mixlm.parallel.mesh import bytes_per_device
from mixlm.reports.units import INDENT, count, parameters, size
from mixlm.rng import row_keys
from mixlm.training.examples import reading, shown
from mixlm.training.prepare import Plan


def summary(plan: Plan) -> list[str]:
    """The lines that a run opens with."""
    recipe = plan.recipe
    spans = recipe.stages.spans(recipe.steps)
    devices = plan.mesh.devices.flatten()
    axes = " x ".join(f"{name} {size}" for name, size in plan.mesh.shape.items())
    held = (size(bytes_per_device(part)) for part in (plan.state.params, plan.state.opt_state))
    rows = [("recipe", f"{recipe.name}, seed {recipe.seed}")]
    for name, module in recipe.networks.items():
        rows.append((name, f"{type(module).__name__}, {count(parameters(plan.state.params[name]))} parameters"))
    if plan.origin is not None:
        rows.append(("begins", plan.origin.described(recipe.identity())))
    elif recipe.init_from:
        rows.append(("began", f"with {recipe.init_from}"))
    rows += _data_rows(plan)
    rows += [
        (
            "rows",
            f"{recipe.batch_size} x {recipe.block_length} tokens a step -> "
            + ", ".join(f"{length} {name}" for name, length in recipe.lengths.items())
            + (f", in {recipe.microbatches} microbatches" if recipe.microbatches > 1 else ""),
        ),
    ]
    for stage, steps in spans:
        flops = plan.steps.matmul_flops(stage.objective)
        rows.append(
            (
                f"stage {stage.objective.name}",
                f"steps {stage.start + 1} to {stage.start + steps}, {count(flops)}FLOP a step, "
                f"{count(flops * steps)}FLOP in all",
            )
        )
    rows += [
        ("devices", f"{len(devices)} x {devices[0].device_kind}{_shared()}, mesh {axes}"),
        ("each holds", "{} of parameters, {} of the optimizer's state".format(*held)),
        ("run", f"{recipe.folder}"),
    ]
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {text}" for name, text in rows]


def _shared() -> str:
    return f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""


def _data_rows(plan: Plan) -> list[tuple[str, str]]:
    if plan.data is None:
        tokens = plan.recipe.steps * plan.recipe.batch_size * plan.recipe.block_length
        return [("data", f"not here; the run reads {count(tokens)} tokens")]
    if isinstance(plan.data, StreamedData):
        return [("data", plan.data.said)]
    recipe, rows = plan.recipe, []
    counts = plan.train.counts(recipe.steps, recipe.batch_size)
    for part, walk, blocks in zip(plan.data.parts, plan.train.parts, counts):
        data, epochs = part.summary, walk.tokens_in(blocks) / walk.num_tokens
        share = f"{blocks / sum(counts):.2%} of the rows; " if len(counts) > 1 else ""
        rows += [
            (
                "data",
                f"{data.name}: {share}{data.documents['train']} documents with {count(data.tokens['train'])} tokens to "
                f"train on, {data.documents['validation']} with {count(data.tokens['validation'])} held out",
            ),
            (
                "unique",
                f"{count(walk.num_tokens)} tokens in {walk.num_documents} documents "
                f"(set {walk.fingerprint[:12]}), each seen {epochs:.2f} times",
            ),
        ]
    return rows


def explanation(plan: Plan) -> list[str]:
    """The summary, then checkpoint size and, where the text is here, memory and examples of every objective.

    Nothing is trained or written.
    """
    lines = [*summary(plan), "", f"checkpoint  {size(size_in_bytes(plan.state))}"]
    if plan.data is None:
        return lines
    for objective in plan.recipe.objectives:
        memory = plan.steps.memory(objective)
        lines.append(
            f"memory of {objective.name}  {size(memory.argument_size_in_bytes)} of state and batch, "
            f"{size(memory.temp_size_in_bytes)} of temporaries on each device"
        )
    for objective in plan.recipe.objectives:
        lines += ["", f"examples of {objective.name}"]
        lines += [INDENT + line for line in example_lines(plan, objective)]
    return lines


def example_lines(plan: Plan, objective: Any, rows: int = 3) -> list[str]:
    """What the first validation rows look like under an objective, before any network has had a part in it."""
    batch = {"tokens": plan.validation[0]["tokens"][:rows]}
    found = shown(objective, None, row_keys(plan.recipe.seed, 0, len(batch["tokens"])), batch, plan.recipe.steps - 1)
    if found is None:
        return ["(this objective shows no examples)"]
    lines = []
    for row in range(len(batch["tokens"])):
        for index, line in enumerate(reading(plan.data.vocabulary, *found, row)):
            lines.append(f"{row + 1 if index == 0 else ' '}  {line}")
    return lines
