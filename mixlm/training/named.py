"""Checkpoints that stay by the words that were read (KEEP_AT_WORDS): their names and steps, known before the first."""

from collections.abc import Mapping, Sequence
from typing import Any

from mixlm.checkpoints.kept import KeptCheckpoints
from mixlm.data.store.fingerprint_cache import caching_in
from mixlm.data.words import WordsSeen, named_steps
from mixlm.recipe import Recipe


def names_of(recipe: Recipe, data: Any, blocks: Any) -> Mapping[int, Sequence[str]]:
    """The names of the checkpoints that stay, by step; {} where the text is not here.

    Raises UserError for more words than the run reads.
    """
    if data is None or not recipe.keep_at_words:
        return {}
    with caching_in(recipe.dataset.cache / "fingerprints"):
        return named_steps(WordsSeen(data, blocks, recipe.batch_size), recipe.keep_at_words, recipe.steps)


def summary_rows(recipe: Recipe, data: Any, blocks: Any, names: Mapping[int, Sequence[str]]) -> list[tuple[str, str]]:
    """The lines of a run's summary, as (what, in words): each name with its step and the words that were read."""
    if not recipe.keep_at_words:
        return []
    if data is None:
        return [("named", "KEEP_AT_WORDS waits for the text, which is not here")]
    seen = WordsSeen(data, blocks, recipe.batch_size)
    kept = (f"{' and '.join(names[step])} at step {step} ({int(seen.after(step)):,})" for step in names)
    return [
        ("words", f"{seen.of_set:,} in the unique set, {int(seen.after(recipe.steps)):,} read in all"),
        ("named", ", ".join(kept)),
    ]


def passed_by(names: Mapping[int, Sequence[str]], checkpoints: KeptCheckpoints, done: int) -> list[str]:
    """A sentence about the names whose steps lie before step `done` and that no checkpoint of the run has."""
    held = checkpoints.named()
    lost = [f"{name} (step {step})" for step in names if step <= done for name in names[step] if name not in held]
    return [f"Not kept, as this start goes on after step {done}: {', '.join(lost)}."] if lost else []
