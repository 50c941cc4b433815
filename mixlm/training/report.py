"""The report at the end of a run: validation beside its yardsticks, examples, curves."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.experimental.multihost_utils import process_allgather

from mixlm.checkpoints.run_dir import RunDir
from mixlm.files import replacing
from mixlm.parallel.processes import broadcast, is_main
from mixlm.reports import curves
from mixlm.reports.journal import add_examples
from mixlm.reports.metrics import VALIDATION, read
from mixlm.reports.table import fixed
from mixlm.reports.units import INDENT
from mixlm.training.examples import distinct, trained_examples
from mixlm.training.fit import ran_out
from mixlm.training.prepare import PreparedRun
from mixlm.training.yardsticks import YARDSTICK, of_labels, yardsticks

EXAMPLES = 3  # Ours: validation rows that are shown under each objective.
WORDS = {"unigram": "unigram entropy", "bigram": "bigram", "labels": "entropy of the labels", "majority": "majority"}


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
    last = records[-1]
    if not any(name.startswith(YARDSTICK) for name in last):
        last |= yardsticks(prepared, last)
    spans = recipe.stages.spans(recipe.steps)
    lines = ["", *measured(last), *_of_earlier_stages(records, spans), ""]
    rows = distinct(prepared.validation_batches[0], EXAMPLES)
    examples = trained_examples(recipe, prepared.data.vocabulary, rows, state.params)
    lines += examples.lines
    with replacing(folder.samples) as file:
        file.write("\n".join(lines) + "\n")
    add_examples(folder.path, int(last.get("step", recipe.steps)), examples)
    switches = [(stage.first, stage.objective.name) for stage, _ in spans[1:]]
    draw(
        records=records,
        path=str(folder.curves),
        tau_steps=switches,
        title=recipe.name,
        against=recipe.curves,
    )
    for line in lines:
        say(line)
    say("")
    say(f"In {folder.path}: curves.png, samples.txt, metrics.jsonl, config.gin, tensorboard/ and checkpoints/.")


class Watched:
    """The examples of a run at each evaluation before its last: the same rows with the same noise, as they form.

    In a run of several processes there are those of the end alone, for which all parameters are gathered. Where the
    device has no room beside the state, `say` is told once and no more are made.
    """

    def __init__(self, prepared: PreparedRun, folder: RunDir, say: Callable[[str], None]) -> None:
        self._prepared, self._folder, self._say = prepared, folder, say
        self._makes = jax.process_count() == 1

    def look(self, done: int, params: Any) -> None:
        """Keeps the examples after `done` steps."""
        prepared = self._prepared
        if not self._makes or done == prepared.recipe.steps:  # `finish` has the last
            return
        rows = distinct(prepared.validation_batches[0], EXAMPLES)
        try:
            found = trained_examples(prepared.recipe, prepared.data.vocabulary, rows, params)
        except jax.errors.JaxRuntimeError as error:
            if not ran_out(error):
                raise
            self._makes = False
            self._say(f"There is no room for examples at step {done}; they are made at the end alone.")
            return
        add_examples(self._folder.path, done, found)


def measured(record: Mapping[str, Any]) -> list[str]:
    """The terms of validation beside their yardsticks (see `yardsticks`), then the figures that are only reported."""
    found = {name.removeprefix(VALIDATION): value for name, value in record.items() if name.startswith(VALIDATION)}
    width = max(map(len, found), default=0)
    return [
        "validation, in nats, beside what the same targets cost without context and by the token before them",
        *(_beside(record, name, width) for name in found if "/" not in name),
        *(f"{INDENT}{name:<{width}}  {fixed(value, 4)}" for name, value in found.items() if "/" in name),
    ]


def _of_earlier_stages(records: Sequence[Mapping[str, Any]], spans: Sequence[tuple[Any, int]]) -> list[str]:
    """The terms that no later stage trains, as they were validated at the end of theirs."""
    lines, levels = [], {name: value for name, value in records[-1].items() if name.startswith(YARDSTICK)}
    trained = [
        {name for record in records if record.get("stage") == stage.objective.name for name in record}
        for stage, _ in spans
    ]
    for number, (stage, steps) in enumerate(spans[:-1]):
        end = stage.first + steps
        record = next((each for each in records if each.get("step") == end), {})
        later = set().union(*trained[number + 1 :])
        names = [name.removeprefix(VALIDATION) for name in record if name.startswith(VALIDATION)]
        only = [name for name in names if "/" not in name and f"train/{name}" in trained[number] - later]
        if only:
            found = {**levels, **record, **of_labels(record)}
            lines += [f"at step {end:,}, the end of {stage.objective.name}"]
            lines += [_beside(found, name, max(map(len, only))) for name in only]
    return lines


def _beside(record: Mapping[str, Any], name: str, width: int) -> str:
    line = f"{INDENT}{name:<{width}}  {fixed(_plain_loss(record, name), 3):>7}"
    for kind, words in WORDS.items():
        if (level := record.get(f"{YARDSTICK}{name}/{kind}")) is not None:
            line += f"  |  {words} {fixed(level, 3)}"
    return line


def _plain_loss(record: Mapping[str, Any], name: str) -> float:
    """An objective's plain cross-entropy, whatever loss it is trained with."""
    key = f"{VALIDATION}{name}"
    return record[f"{key}/cross_entropy"] if f"{key}/cross_entropy" in record else record[key]
