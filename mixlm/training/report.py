"""The end of a run: what was learnt, beside what a model without context would pay, and where everything lies."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from mixlm.checkpoints.run_dir import RunDir
from mixlm.network import CachedNetwork, EncoderDecoderNetwork, bind
from mixlm.parallel.processes import broadcast, is_main
from mixlm.reports import curves
from mixlm.reports.metrics import read
from mixlm.reports.units import INDENT
from mixlm.rng import row_keys
from mixlm.training.examples import filled, guessed, likeliest, shown
from mixlm.training.prepare import Plan
from mixlm.training.traced_hparams import with_numbers, without_numbers
from mixlm.training.validation import mean_terms, unigram_entropy

EXAMPLES = 3


def validate(planned: Plan, params: Any, seed: Any, step: int) -> dict[str, float]:
    """Each validated objective's terms on the same rows with the same noise, as `validation/NAME`.

    Where two objectives have a term of one name, the later stage's stands: the plain objective follows the mixed one.
    """
    recipe = planned.recipe
    found: dict[str, float] = {}
    for objective in recipe.validated:
        run = planned.validations[objective]
        terms = [
            run(params, planned.place(batch), seed, planned.number(index), planned.number(step), planned.band_of)
            for index, batch in enumerate(planned.validation)
        ]
        found |= {f"validation/{name}": value for name, value in mean_terms(terms).items()}
    return found


def finish(planned: Plan, folder: RunDir, state: Any, say: Callable[[str], None]) -> None:
    """Prints the validation, some examples and the places; draws the curves. Process 0 does, with the others' help."""
    recipe, records = planned.recipe, read(folder.path) if is_main() else [{}]
    if not broadcast(lambda: any(name.startswith("validation/") for name in records[-1])):
        records[-1] |= validate(planned, state.params, planned.number(recipe.seed), recipe.steps)
    if jax.process_count() > 1:
        # One process decodes, so it needs all of each parameter.
        state = state.replace(params=process_allgather(state.params, tiled=True))
    if not is_main():
        return
    lines = ["", "validation", *(INDENT + line for line in _validation_lines(records[-1]))]
    baseline = None
    for objective in recipe.validated:
        entropy = unigram_entropy(objective, planned.validation, recipe.seed, recipe.steps)
        if entropy is None or f"validation/{objective.name}" not in records[-1]:
            continue
        baseline = entropy, "unigram entropy of the validation targets"
        loss = _plain_loss(records[-1], objective.name)
        verdict = "below" if loss < entropy else "not below"
        lines.append(f"{objective.name}: {loss:.3f} nats a token, {verdict} {entropy:.3f}, the {baseline[1]}")
    lines += ["", *example_lines(planned, state)]
    folder.samples.write_text("\n".join(lines) + "\n", encoding="utf-8")
    spans = recipe.stages.spans(recipe.steps)
    switches = [(stage.start, stage.objective.name) for stage, _ in spans[1:]]
    curves.draw(records, folder.curves, switches, recipe.name, baseline, recipe.curves)
    for line in lines:
        say(line)
    say("")
    say(f"In {folder.path}: curves.png, samples.txt, metrics.jsonl, config.gin, tensorboard/ and checkpoints/.")


def _validation_lines(record: dict[str, Any]) -> list[str]:
    found = {
        name.removeprefix("validation/"): value for name, value in record.items() if name.startswith("validation/")
    }
    return [f"{name:<32}  {value:.4f}" for name, value in found.items()]


def _plain_loss(record: dict[str, Any], name: str) -> float:
    """An objective's plain cross-entropy, whatever loss it is trained with."""
    key = f"validation/{name}"
    return record[f"{key}/cross_entropy"] if f"{key}/cross_entropy" in record else record[key]


def example_lines(planned: Plan, state: Any) -> list[str]:
    """A few validation rows as each objective shows them, with what the model says next to what is true.

    An encoder-decoder's later stages differ in nothing that a reader would see, so the first one speaks for all.
    """
    lines: list[str] = []
    for objective in planned.recipe.objectives:
        found = _examples_of(objective, planned, state)
        if lines and isinstance(planned.recipe.networks[objective.networks[0]], EncoderDecoderNetwork):
            break
        lines += ["", f"as {objective.name} shows it", *found] if found else []
    return lines[1:]


def _examples_of(objective: Any, planned: Plan, state: Any) -> list[str]:
    recipe, modules = planned.recipe, dict(planned.recipe.modules)
    rows = {"tokens": planned.validation[0]["tokens"][:EXAMPLES]}
    count = len(rows["tokens"])
    params = jax.device_get({name: state.params[name] for name in objective.networks})

    static, numbers = without_numbers(objective)

    # Nothing of this run alone is a constant, so that the next run of a sweep need not compile it again.
    def corrupted(params, keys, rows, numbers):
        return shown(with_numbers(static, numbers), bind(modules, params), keys, rows, recipe.steps - 1)

    scalars = tuple(map(np.float32, numbers))
    found = jax.jit(corrupted)(params, row_keys(recipe.seed, 0, count), rows, scalars)
    if found is None:
        return []
    example, before = found
    network = objective.networks[0]
    if example.encoder_input_tokens is not None and isinstance(modules[network], CachedNetwork):
        return filled(modules[network], params[network], planned.data.vocabulary, example, before, recipe.tokens)
    guess = jax.jit(lambda params, example: likeliest(bind(modules, params)[network], example))
    guesses = guess({network: params[network]}, example)
    return [
        line
        for row in range(count)
        for line in [f"example {row + 1}", *guessed(planned.data.vocabulary, example, guesses, row)]
    ]
