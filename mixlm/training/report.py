"""The report at the end of a run: validation beside the unigram entropy, examples, curves."""

from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.multihost_utils import process_allgather

from mixlm.checkpoints.run_dir import RunDir
from mixlm.files import replacing
from mixlm.parallel.processes import broadcast, is_main
from mixlm.reports import curves
from mixlm.reports.metrics import read
from mixlm.reports.table import fixed
from mixlm.reports.units import INDENT
from mixlm.training.examples import trained_examples
from mixlm.training.prepare import PreparedRun
from mixlm.training.validation import unigram_entropy

EXAMPLES = 3  # Ours: validation rows that are shown under each objective.


def finish(
    prepared: PreparedRun,
    folder: RunDir,
    state: Any,
    say: Callable[[str], None],
    draw: Callable[..., object] = curves.draw,
) -> None:
    """Prints the validation terms and some examples, writes samples.txt and draws curves.png with `draw`.

    All processes must call it; process 0 reports.
    """
    recipe, records = prepared.recipe, (read(folder.path) if is_main() else []) or [{}]
    if not broadcast(lambda: any(name.startswith("validation/") for name in records[-1])):
        records[-1] |= prepared.validate(state.params, recipe.steps)
    if jax.process_count() > 1:
        # Process 0 alone decodes, so it gathers every shard of the parameters.
        state = state.replace(params=process_allgather(state.params, tiled=True))
    if not is_main():
        return
    lines = ["", "validation", *(INDENT + line for line in _validation_lines(records[-1]))]
    baseline = None
    for objective in recipe.validated:
        entropy = unigram_entropy(objective, prepared.validation_batches, recipe.seed, recipe.steps)
        if entropy is None or f"validation/{objective.name}" not in records[-1]:
            continue
        baseline = entropy, "unigram entropy of the validation targets"
        loss = _plain_loss(records[-1], objective.name)
        verdict = "below" if loss < entropy else "not below"
        lines.append(f"{objective.name}: {fixed(loss, 3)} nats per token, {verdict} {entropy:.3f}, the {baseline[1]}")
    rows = {name: column[:EXAMPLES] for name, column in prepared.validation_batches[0].items()}
    lines += ["", *trained_examples(recipe, prepared.data.vocabulary, rows, state.params).lines]
    with replacing(folder.samples) as file:
        file.write("\n".join(lines) + "\n")
    spans = recipe.stages.spans(recipe.steps)
    switches = [(stage.first, stage.objective.name) for stage, _ in spans[1:]]
    draw(
        records=records,
        path=str(folder.curves),
        tau_steps=switches,
        title=recipe.name,
        baseline=baseline,
        against=recipe.curves,
    )
    for line in lines:
        say(line)
    say("")
    say(f"In {folder.path}: curves.png, samples.txt, metrics.jsonl, config.gin, tensorboard/ and checkpoints/.")


def _validation_lines(record: dict[str, Any]) -> list[str]:
    found = {
        name.removeprefix("validation/"): value for name, value in record.items() if name.startswith("validation/")
    }
    return [f"{name:<32}  {fixed(value, 4)}" for name, value in found.items()]


def _plain_loss(record: dict[str, Any], name: str) -> float:
    """An objective's plain cross-entropy, whatever loss it is trained with."""
    key = f"validation/{name}"
    return record[f"{key}/cross_entropy"] if f"{key}/cross_entropy" in record else record[key]
