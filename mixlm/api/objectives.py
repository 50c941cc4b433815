"""What an objective makes of a text: its corruption in colours, its attention masks, its loss terms."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from mixlm.analysis.mask_figure import MaskPanel, attended, mask_figure
from mixlm.analysis.style import Png
from mixlm.api.functions import recipe_of
from mixlm.api.run import Run
from mixlm.api.settled import settled, text_batch
from mixlm.recipe import Recipe
from mixlm.reports.examples import Examples
from mixlm.reports.table import Table

Given = Run | Recipe | str | os.PathLike[str]


def corrupt(recipe: Given, text: str, rows: int = 2) -> Examples:
    """A text as each objective of a recipe corrupts it, with nothing trained.

    Args:
      recipe: the recipe, or a run or its folder.
      text: is cut to the length of the recipe's rows.
      rows: copies of the text, each with noise of its own; a mixture gives each copy to one of its objectives.

    Returns:
      Examples, which print as lines and show masked, replaced and scored tokens in colours in a notebook.

    Example: `corrupt(load_recipe("dual.gin"), "The Congress shall meet in December.")`.
    """
    from mixlm.training.examples import untrained_examples

    whole, data = settled(recipe_of(recipe))
    batch = text_batch(whole, data.vocabulary, text, rows)
    found = [untrained_examples(whole, each, data.vocabulary, batch) for each in whole.objectives]
    return Examples(example for examples in found for example in examples)


def attention_masks(recipe: Given, text: str, rows: int = 2) -> Png:
    """The attention masks of a text under each objective of a recipe: who attends to whom, and who is scored.

    Args:
      recipe: the recipe, or a run or its folder.
      text: is cut to the length of the recipe's rows; at most 25 tokens have their names beside the mask.
      rows: as in `corrupt`; of copies whose masks are equal the first is drawn.

    Example: `attention_masks(load_recipe("dual.gin"), "The Congress shall meet.").save("mask.png")`.
    """
    whole, data = settled(recipe_of(recipe))
    batch = text_batch(whole, data.vocabulary, text, rows)
    panels: dict[tuple[str, bytes], MaskPanel] = {}
    for objective in whole.objectives:
        for panel in _panels(whole, objective, data.vocabulary, batch):
            # The stages of an encoder-decoder differ in what is read, and seldom in who sees whom.
            part = panel.title.partition(": ")[2] or panel.title
            panels.setdefault((part, panel.seen.tobytes()), panel)
    return mask_figure(list(panels.values()))


def _panels(recipe: Recipe, objective: Any, vocabulary: Any, batch: Any) -> Iterator[MaskPanel]:
    from mixlm.rng import row_keys
    from mixlm.training.examples import row_parts, untrained

    keys = row_keys(recipe.seed, 0, len(batch["tokens"]))
    found = untrained(objective, keys, batch, recipe.steps - 1)
    if found is None:
        return
    example, parts = found[0], row_parts(objective, keys, batch, recipe.steps - 1)
    for row in range(len(batch["tokens"])):
        name = (parts[row] if parts else "") or objective.name
        reads, segments = np.asarray(example.decoder_input_tokens[row]), np.asarray(example.decoder_segments[row])
        scored = np.asarray(example.decoder_loss_weights[row]) > 0
        decoder = _names(vocabulary, reads)
        if example.encoder_input_tokens is not None:
            inside = np.asarray(example.encoder_segments[row])
            encoder, none = _names(vocabulary, np.asarray(example.encoder_tokens[row])), np.zeros(len(inside), bool)
            yield MaskPanel(f"{name}: encoder", attended(inside, inside, inside), encoder, encoder, none)
            over = attended(segments, segments, inside)
            yield MaskPanel(f"{name}: decoder over encoder", over, decoder, encoder, scored)
        seen = attended(np.asarray(example.decoder_mask_ar[row]), segments)
        title = name if example.encoder_input_tokens is None else f"{name}: decoder"
        yield MaskPanel(title, seen, decoder, decoder, scored)


def _names(vocabulary: Any, tokens: Any) -> list[str]:
    return [piece.replace("\u2581", " ") for piece in vocabulary.pieces(tokens.tolist())]


def loss_terms(recipe: Given, text: str, rows: int = 2) -> Table:
    """The loss terms of a text under each objective: `loss = sum of weight * total / count`.

    Args:
      recipe: a run or its folder, whose trained parameters are taken; of a recipe, fresh ones: a term over the
        vocabulary then is about log V.
      text: is cut to the length of the recipe's rows.
      rows: as in `corrupt`.

    Returns:
      A row for each term: objective, term, weight, total, count, mean, and `adds`, its part of the loss. Terms of
      weight 0 are only reported.

    Example: `loss_terms(load_recipe("spactor.gin"), "The Congress shall meet in December.")`.
    """
    import jax
    import jax.numpy as jnp

    from mixlm.network import bind
    from mixlm.rng import row_keys

    whole, data = settled(recipe_of(recipe))
    params = _parameters(recipe, whole)
    batch = {name: jnp.asarray(column) for name, column in text_batch(whole, data.vocabulary, text, rows).items()}
    keys, step = row_keys(whole.seed, 0, rows), jnp.asarray(whole.steps - 1, jnp.int32)
    found = []
    for objective in whole.objectives:

        def terms(params: Any, batch: Any, keys: Any, step: Any, objective: Any = objective) -> Any:
            nets = bind(dict(whole.modules), {name: params[name] for name in objective.networks})
            return objective(nets, batch, keys, step)

        for name, term in jax.jit(terms)(params, batch, keys, step).items():
            figures = {"weight": float(term.weight), "total": float(term.total), "count": float(term.count)}
            mean = float(term.value)
            row = {"objective": objective.name, "term": name} | figures
            found.append(row | {"mean": mean, "adds": figures["weight"] * mean})
    return Table(found)


def _parameters(given: Given, recipe: Recipe) -> Any:
    """The parameters of a trained run, or of a recipe's first state."""
    import jax

    from mixlm.training.initial_state import initial_state

    if not isinstance(given, Recipe):
        return jax.device_get((given if isinstance(given, Run) else Run(given)).params)
    layout = recipe.partitioning.layout(None)
    create, _ = initial_state(dict(recipe.modules), recipe.optimizer, recipe.seed, layout)
    return jax.device_get(create().params)
