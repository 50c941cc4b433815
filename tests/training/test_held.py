"""The account of what a run holds, before anything is allocated, from its shapes."""

import math

import jax
import pytest

from mixlm.errors import UserError
from mixlm.gin_config.build import configured
from mixlm.gin_config.flags import parse_flags
from mixlm.perf.memory import check_fits
from mixlm.recipe import Recipe
from mixlm.training.held import least_held, memory_of
from mixlm.training.initial_state import initial_state

SMALL = ("VOCAB_SIZE=112", "TokenIds.sentinels=20", "TrainedSentencePiece.sentinels=20", "EMB_DIM=16", "EVAL_BATCHES=3")


def account(*values):
    """(The recipe, its layout on one device, its needs by name)."""
    recipe = configured(
        parse_flags(["--gin_file=mile.gin", *(f"--gin.{value}" for value in (*SMALL, *values))], ""), Recipe
    )
    layout = recipe.partitioning.layout(jax.devices()[:1])
    _, shapes = initial_state(dict(recipe.modules), recipe.optimizer, recipe.seed, layout)
    return recipe, layout, shapes, least_held(recipe, layout, shapes)


def test_what_is_held_at_least_follows_from_shapes():
    recipe, _, shapes, needs = account("BATCH_SIZE=8", "MICROBATCHES=2")
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes.params))
    # Adam has two moments; then the gradients, the counts of steps, and 4 + 12 / 2 bytes of each token of the batch.
    assert needs[0].bytes == pytest.approx(4 * 4 * parameters, abs=64)
    assert needs[1].bytes == 8 * 128 * 4 + 4 * 128 * 12
    assert needs[2].bytes == 480 * recipe.tokens.vocab_size * 4
    assert needs[3].bytes == 3 * 8 * 128 * 4


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("EVAL_BATCHES=100000000", "the rows of validation alone are 762.9 GiB; lower EVAL_BATCHES"),
        ("BATCH_SIZE=1000000000", "lower"),
        ("EMB_DIM=1000000000", "parameters, gradients and the optimizer's state alone are"),
        ('TASK_FEATURE_LENGTHS={"targets":1000000000}', "lower"),
    ],
)
def test_a_size_that_cannot_be_held_is_one_sentence(value, words):
    _, layout, _, needs = account(*(("BATCH_SIZE=16",) if "BATCH" not in value or "EVAL" in value else ()), value)
    with pytest.raises(
        UserError, match=r"^This run needs at least [\d,.]+ GiB and .* has [\d.]+ GiB: [^\n]*\.$"
    ) as error:
        check_fits("This run", needs, *memory_of(layout))
    assert words in str(error.value)
