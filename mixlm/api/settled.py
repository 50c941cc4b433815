"""A recipe together with its data: the length of its run and every stage known, and texts as rows of its tokens."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int32

from mixlm.data.loader.batches import as_batch
from mixlm.errors import UserError
from mixlm.files import check_text
from mixlm.recipe import Recipe


def settled(recipe: Recipe, say: Callable[[str], Any] = lambda line: None) -> tuple[Recipe, Any]:
    """(The recipe with its steps and stages, its prepared data); the text is tokenised where it was not yet."""
    data: Any = recipe.dataset.prepare(say)
    if recipe.train_steps is not None:
        return recipe.settled(None), data
    return recipe.settled(data.summary.unique_tokens, data.rows_of(recipe.block_length, recipe.epochs)), data


def text_batch(recipe: Recipe, vocabulary: Any, text: str, rows: int = 1) -> dict[str, Int32[np.ndarray, "B ..."]]:
    """A text as `rows` equal rows of a batch, cut to the length of the recipe's rows; UserError for an empty one."""
    check_text(text, "The text")
    tokens = np.asarray(vocabulary.encode(text), np.int32)[: recipe.block_length]
    if not len(tokens):
        raise UserError("The text is empty: give a sentence of at least a word.")
    return as_batch(np.tile(np.concatenate([np.zeros(recipe.before, np.int32), tokens]), (rows, 1)), recipe.before)
