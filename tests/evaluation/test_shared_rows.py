"""Rows that both sentences of a pair share are read once, all of them and no other, and scores stay what they were."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from mixlm.evaluation.likelihood import CausalLikelihood, DiffusionBound, PseudoLikelihood
from mixlm.evaluation.minimal_pairs import pair_sentences
from mixlm.evaluation.pair_files import Paradigm
from mixlm.evaluation.reading import Rows
from mixlm.evaluation.scorer import Scorer
from mixlm.evaluation.shared_rows import plan_of
from mixlm.models.llama import Llama
from mixlm.parallel.mesh import Partitioning
from mixlm.tokens import TokenIds

TOKENS = TokenIds(vocab_size=32, mask=4, bos=3, sentinels=6)
LLAMA = Llama(vocab_size=32, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=24, num_layers=1, init_std=0.4)
# One token differs, two side by side, two far apart, the length, and none.
PAIRS = (("f g h i j", "f g k i j"), ("f g h", "f i j"), ("f g h i", "k g h l"), ("f g h", "f g"), ("f g h", "f g h"))
BOUND = DiffusionBound(TOKENS, True, samples=4, seed=1)
PLL = PseudoLikelihood(TOKENS, True, 1)
masks = jax.jit(DiffusionBound.masks, static_argnums=0)


def sentences():
    return pair_sentences((Paradigm("p", "f", "t", PAIRS),), lambda text: [ord(word) - 90 for word in text.split()])


@cache
def scorer():
    params = jax.jit(lambda: meta.unbox(LLAMA.init(jax.random.key(1), *LLAMA.inputs())["params"]))()
    return Scorer(LLAMA, params, Partitioning().mesh(jax.devices()[:1]), 256)


def slow_count(mode, found):
    """Rows that read what the same row of the pair's other sentence reads, counted one by one."""
    half, count = len(PAIRS), 0
    for pair in range(half):
        good, bad = found.tokens[pair], found.tokens[pair + half]
        for copy in range(int(mode.copies(np.asarray([len(bad)]))[0]) if len(good) == len(bad) else 0):
            if mode == PLL:
                hidden = range(copy, copy + 2)
            else:
                numbers = (jnp.asarray([each]) for each in (len(good), found.prefixes[pair], copy, found.noise[pair]))
                hidden = np.flatnonzero(masks(BOUND, Rows(jnp.zeros((1, 8), jnp.int32), *numbers))[0][0])
            read = [[None if place in hidden else token for place, token in enumerate(x)] for x in (good, bad)]
            count += read[0] == read[1]
    return count


@pytest.mark.parametrize("mode", [PLL, BOUND], ids=["pll", "bound"])
def test_shared_rows_are_read_once_and_change_no_score(mode):
    pairs = sentences()
    plan, alone = plan_of(mode, pairs), plan_of(mode, replace(pairs, twins=None))
    shared = slow_count(mode, pairs)
    assert len(alone.numbers) - len(plan.numbers) == shared > 3
    assert alone.twin is None and (plan.twin >= 0).sum() == shared
    found, wanted = (scorer()(mode, each) for each in (pairs, replace(pairs, twins=None)))
    np.testing.assert_allclose(found.total, wanted.total, atol=1e-5)
    assert np.ptp(wanted.total) > 0.1


def test_what_is_read_from_left_to_right_shares_no_row():
    pairs = sentences()
    assert plan_of(CausalLikelihood(TOKENS), pairs).twin is None
    assert pairs.twins.tolist() == [5, 6, 7, -1, 9, 0, 1, 2, -1, 4]
    assert pairs.others[0] == pairs.tokens[5] and pairs.others[3] == pairs.tokens[3]
