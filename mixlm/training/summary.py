"""The lines a run opens with (sizes, data, repeats, stages, FLOPs, devices), and `--explain`'s examples."""

import html
from dataclasses import dataclass

import jax

from mixlm.checkpoints.saving import size_in_bytes
from mixlm.data.loader.streaming import StreamedData
from mixlm.parallel.mesh import bytes_per_device
from mixlm.perf.memory import shortage
from mixlm.reports.examples import ExampleText, as_html
from mixlm.reports.units import INDENT, count, parameters, size
from mixlm.training import named
from mixlm.training.examples import distinct, untrained_examples
from mixlm.training.held import least_held, memory_of
from mixlm.training.prepare import PreparedRun

EXAMPLES = 3  # Ours: validation rows that are shown under each objective.


def summary(prepared: PreparedRun) -> list[str]:
    """The lines that a run opens with."""
    rows = summary_rows(prepared)
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {text}" for name, text in rows]


def summary_rows(prepared: PreparedRun) -> list[tuple[str, str]]:
    """The summary as (what, in words)."""
    recipe = prepared.recipe
    spans = recipe.stages.spans(recipe.steps)
    devices = prepared.mesh.devices.flatten()
    held = (size(bytes_per_device(part)) for part in (prepared.shapes.params, prepared.shapes.opt_state))
    rows = [("recipe", f"{recipe.name}, seed {recipe.seed}")]
    for name, module in recipe.networks.items():
        rows.append((name, f"{type(module).__name__}, {count(parameters(prepared.shapes.params[name]))} parameters"))
    if prepared.warm_start is not None:
        rows.append(("begins", prepared.warm_start.described(recipe.identity())))
    elif recipe.init_from:
        rows.append(("began", f"with {recipe.init_from}"))
    rows += _data_rows(prepared)
    rows += [
        (
            "rows",
            f"{recipe.batch_size} x {recipe.block_length} tokens a step -> "
            + ", ".join(f"{length} {name}" for name, length in recipe.lengths.items())
            + (f", in {recipe.microbatches} microbatches" if recipe.microbatches > 1 else ""),
        ),
    ]
    if recipe.scaled:
        rows.append(("scaled", f"{', '.join(recipe.scaled)}, as this run is shorter than the recipe's"))
    for stage, steps in spans:
        flops = prepared.train_step.matmul_flops(stage.objective)
        rows.append(
            (
                f"stage {stage.objective.name}",
                f"steps {stage.first + 1} to {stage.first + steps}, {count(flops)}FLOP a step, "
                f"{count(flops * steps)}FLOP in all",
            )
        )
    return [
        *rows,
        *named.summary_rows(recipe, prepared.data, prepared.train_blocks, prepared.names),
        ("devices", f"{len(devices)} x {devices[0].device_kind}{_shared()}, mesh {prepared.layout.described}"),
        ("each holds", "{} of parameters, {} of the optimizer's state".format(*held)),
        ("run", f"{recipe.folder}"),
    ]


def _shared() -> str:
    return f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""


def _data_rows(prepared: PreparedRun) -> list[tuple[str, str]]:
    if prepared.data is None:
        tokens = prepared.recipe.steps * prepared.recipe.batch_size * prepared.recipe.block_length
        return [("data", f"not here; the run reads {count(tokens)} tokens")]
    if isinstance(prepared.data, StreamedData):
        return [("data", prepared.data.said)]
    recipe, rows = prepared.recipe, []
    counts = prepared.train_blocks.counts(recipe.steps, recipe.batch_size)
    for part, walk, blocks in zip(prepared.data.parts, prepared.train_blocks.parts, counts):
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
        if unknown := part.unknown_share():
            rows.append(
                ("unknown", f"{unknown:.2%} of the tokens are <unk>: the vocabulary lacks characters of the text")
            )
    return rows


@dataclass(frozen=True)
class Explanation:
    """A run before it begins: the lines of its summary, and examples of its objectives where the text is here.

    It prints as `--explain` does, and a notebook shows the examples' corruption in colours.
    """

    summary: tuple[str, ...]
    examples: tuple[tuple[str, tuple[ExampleText, ...]], ...] = ()

    @property
    def lines(self) -> list[str]:
        """The summary, then the examples of each objective."""
        lines = list(self.summary)
        for name, examples in self.examples:
            lines += ["", f"examples of {name}"]
            lines += [] if examples else [f"{INDENT}(this objective shows no examples)"]
            for example in examples:
                lines += [f"{INDENT}{example.title}", *(2 * INDENT + line for line in example.lines)]
        return lines

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        examples = [example for _, members in self.examples for example in members]
        head = html.escape("\n".join(self.summary))
        return f"<pre>{head}</pre>" + (as_html(examples) if examples else "")


def explanation(prepared: PreparedRun) -> Explanation:
    """The summary, checkpoint size and, where the text is here, memory and examples of every objective.

    Nothing is trained or written.
    """
    lines = [*summary(prepared), "", f"checkpoint  {size(size_in_bytes(prepared.shapes))}"]
    held, where = memory_of(prepared.layout)
    if prepared.data is None:
        too_large = shortage("This run", least_held(prepared.recipe, prepared.layout, prepared.shapes), held, where)
        return Explanation((*lines, *([too_large] if too_large else [])))
    for objective in prepared.recipe.objectives:
        memory = prepared.train_step.memory(objective)
        lines.append(
            f"memory of {objective.name}  {size(memory.argument_size_in_bytes)} of state and batch, "
            f"{size(memory.temp_size_in_bytes)} of temporaries on each device"
        )
        if too_large := shortage(f"The step of {objective.name}", [prepared.step_held(objective)], held, where):
            lines.append(too_large)
    rows = distinct(prepared.validation_batches[0], EXAMPLES)
    examples = tuple(
        (objective.name, tuple(untrained_examples(prepared.recipe, objective, prepared.data.vocabulary, rows)))
        for objective in prepared.recipe.objectives
    )
    return Explanation(tuple(lines), examples)
