"""What a row reads first, and which targets are scored: the pairs of input and target of the releases."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixlm.data.loader.epochs import Repeated, sequential
from mixlm.data.loader.streaming import Streamed
from mixlm.data.store.token_store import StoreSplit
from mixlm.errors import UserError
from mixlm.gin_config.build import configured
from mixlm.gin_config.flags import parse_flags
from mixlm.objectives.base import any_reads_previous
from mixlm.objectives.causal import Causal
from mixlm.objectives.masked_diffusion import MaskedDiffusion
from mixlm.objectives.masked_lm import MaskedLM
from mixlm.objectives.mixing import PerExample, Sum
from mixlm.objectives.prefix_lm import PrefixLM
from mixlm.objectives.unrolled_diffusion import UnrolledDiffusion
from mixlm.recipe import Recipe
from mixlm.rng import row_keys
from mixlm.tokens import TokenIds

PAD, MASK, BOS = 0, 3, 4
TOKENS = TokenIds(40, MASK, bos=BOS, sentinels=3)
DUAL = {"separate_documents": True, "row_bos": False}
DOCUMENTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15, 16], [17, 18, 19, 20]]


def split_of(documents) -> StoreSplit:
    """The documents, each after BOS, as a store holds them."""
    marked = [np.asarray([BOS, *document], np.int32) for document in documents]
    offsets = np.cumsum([0, *map(len, marked)], dtype=np.int64)
    return StoreSplit(np.concatenate(marked).astype(np.uint16), offsets, 0)


def batch_of(rows) -> dict:
    rows = np.asarray(rows, np.int32)
    return {"tokens": jnp.asarray(rows[:, 1:]), "previous": jnp.asarray(rows[:, 0])}


def scored_pairs(example) -> list[tuple[int, int]]:
    scored = np.asarray(example.decoder_loss_weights) > 0
    inputs, targets = np.asarray(example.decoder_input_tokens), np.asarray(example.decoder_target_tokens)
    return list(zip(inputs[scored].tolist(), targets[scored].tolist()))


def release_pairs(documents) -> list[tuple[int, int]]:
    """Dual's release: a document's inputs are <s> and all but its last token, its targets all of its tokens."""
    return [pair for document in documents for pair in zip([BOS, *document], document)]


@pytest.mark.parametrize("length", [4, 5])
def test_a_causal_row_holds_the_pairs_of_duals_release(length):
    rows = sequential(split_of(DOCUMENTS), length, before=1)
    causal = Causal(TOKENS, score_bos=False, **DUAL)
    example = causal.corrupt(row_keys(0, 0, len(rows)), batch_of(rows))
    assert scored_pairs(example) == release_pairs(DOCUMENTS)[: len(scored_pairs(example))]
    assert len(scored_pairs(example)) == np.sum(rows[:, 1:] != BOS)
    # Attention stays within documents: the segment changes where BOS is read.
    segments, inputs = np.asarray(example.decoder_segment_ids), np.asarray(example.decoder_input_tokens)
    np.testing.assert_array_equal(np.diff(segments, axis=1), inputs[:, 1:] == BOS)
    # As it was: BOS before every row, and BOS among the targets.
    before = scored_pairs(Causal(TOKENS).corrupt(row_keys(0, 0, len(rows)), batch_of(rows)))
    assert [target for _, target in before] == rows[:, 1:].ravel().tolist() and before[length][0] == BOS


def test_a_causal_row_of_gpt_berts_release_begins_with_bos_which_is_never_a_target():
    rows = [[7, 8, 9, BOS, 10]]
    example = Causal(TOKENS, separate_documents=True, score_bos=False).corrupt(row_keys(0, 0, 1), batch_of(rows))
    assert scored_pairs(example) == [(BOS, 8), (8, 9), (BOS, 10)]


@pytest.mark.parametrize(
    "objective",
    [
        PrefixLM(TOKENS, score_bos=False, **DUAL),
        MaskedDiffusion(TOKENS, **DUAL),
        MaskedDiffusion(TOKENS, score_last=True, score_bos=False, **DUAL),
        MaskedLM(TOKENS, mask_rate=0.5, shifted=True, **DUAL),
        UnrolledDiffusion(TOKENS, shifted=True, prefix=False, **DUAL),
    ],
    ids=lambda objective: objective.name,
)
def test_every_shifted_row_is_read_from_the_token_before_it(objective):
    assert any_reads_previous([objective]) and not any_reads_previous([replace(objective, row_bos=True)])
    corrupt = getattr(objective, "corrupt", None) or (lambda *given: objective.first(*given).first)
    rows = np.asarray([[20, 5, 6, 7, BOS], [PAD, BOS, 8, 9, 10]] * 40)
    example = jax.jit(corrupt)(row_keys(0, 0, len(rows)), batch_of(rows))
    first = np.asarray(example.decoder_input_tokens)[:, 0]
    assert set(first[::2].tolist()) <= {20, MASK} and 20 in first[::2]
    assert set(first[1::2].tolist()) == {BOS}, "nothing comes before the first row"
    if objective.name != "unrolled_diffusion":
        assert BOS not in [target for _, target in scored_pairs(example)]


def weights_of(objective, rows: int, length: int):
    batch = batch_of(np.random.default_rng(0).integers(5, 30, (rows, length + 1)))
    example = jax.jit(objective.corrupt)(row_keys(1, 0, rows), batch)
    return np.asarray(example.decoder_input_tokens) == MASK, np.asarray(example.decoder_loss_weights, np.float64)


def test_a_position_of_score_last_weighs_what_it_does_in_duals_release():
    """DiffusionDatasetv2 draws k of the T inputs, the first too, and scores what follows on them, and the last target.

    So of k masks those behind the first input are targets, and one target more: (k - [first] + 1) T / k in all, whose
    mean is (T - 1) / T + E[1 / k] a position.
    """
    length = 32
    objective = MaskedDiffusion(TOKENS, score_last=True, stratified=True, **DUAL)
    masked, weights = weights_of(objective, 4096, length)
    count = masked.sum(1)
    assert count.min() == 1 and count.max() == length and masked[:, 0].any()
    np.testing.assert_array_equal(weights[:, :-1] > 0, masked[:, 1:])
    np.testing.assert_allclose(weights.sum(1), (count - masked[:, 0] + 1) * length / count, rtol=1e-6)
    # k = max(1, floor(T t + u)): 1.5 / T for k = 1, half of 1 / T for k = T, 1 / T between.
    chances = np.array([1.5, *[1.0] * (length - 2), 0.5]) / length
    expected = (length - 1) / length + np.sum(chances / np.arange(1, length + 1))
    assert expected == pytest.approx(1.1107, abs=1e-4)
    assert weights.mean() == pytest.approx(expected, abs=0.01)  # 1.142 where the first input is never masked
    # A row that begins a document has BOS there, which is special; so had every row before.
    _, begun = weights_of(replace(objective, row_bos=True), 4096, length)
    assert begun.mean() == pytest.approx(expected + 1 / length, abs=0.01)


def test_the_last_target_of_score_last_is_no_bos():
    rows = np.asarray([[20, 5, 6, 7, BOS], [20, 5, 6, 7, 8]])
    for scored in (True, False):
        objective = MaskedDiffusion(TOKENS, score_last=True, score_bos=scored, **DUAL)
        example = jax.jit(objective.corrupt)(row_keys(0, 0, 2), batch_of(rows))
        assert (np.asarray(example.decoder_loss_weights)[:, -1] > 0).tolist() == [scored, True]


def test_rows_carry_the_token_before_them_in_their_text():
    repeated = Repeated(split_of(DOCUMENTS), 3, seed=5, epochs=3)
    blocks = -(-3 * repeated.num_tokens // 3)
    stream = np.zeros(blocks * 3, np.int32)
    for index in range(blocks):
        start = repeated.position_of(index)
        stream[start : start + 3] = repeated.block(index)
    rows = repeated.rows(0, blocks, np.arange(blocks), before=1)
    starts = [repeated.position_of(index) for index in range(blocks)]
    assert rows[:, 0].tolist() == [stream[start - 1] if start else PAD for start in starts]
    np.testing.assert_array_equal(rows[:, 1:], repeated.rows(0, blocks, np.arange(blocks)))


def test_streamed_rows_carry_the_token_before_them_whatever_is_read_first():
    documents = [np.asarray(document) for document in DOCUMENTS]
    stream = np.concatenate([PAD, *documents, *documents], axis=None)
    for order in ([0, 1, 2, 3], [2, 0, 1, 1]):
        streamed = Streamed(lambda: iter(documents), 3, "text")
        found = streamed.blocks(np.asarray(order), before=1)
        assert found.tolist() == [stream[3 * index : 3 * index + 4].tolist() for index in order]
        np.testing.assert_array_equal(streamed.blocks(np.asarray(order)), found[:, 1:])


def built(*values: str) -> Recipe:
    return configured(parse_flags(["--gin_file=dual.gin", *values], ""), Recipe)


def test_dual_follows_its_release_and_every_mode_reads_the_same_rows():
    recipe = built()
    objectives = [*recipe.declared[0].objectives, *recipe.validated]
    assert {each.row_bos for each in objectives} == {False} and recipe.before == 1
    assert {each.score_bos for each in objectives if hasattr(each, "score_bos")} == {False}
    assert built("--gin.ROW_BOS=True").before == 0
    assert Sum((recipe.declared[0],), (1.0,)).reads_previous and isinstance(recipe.declared[0], PerExample)
    with pytest.raises(UserError, match=r"^ROW_BOS = False needs DOCUMENT_BOS = True, [^\n]*[.]$"):
        built("--gin.DOCUMENT_BOS=False")


def test_the_identity_of_a_run_names_the_rules_that_older_runs_did_not_have():
    old, new = built("--gin.ROW_BOS=True", "--gin.SCORE_BOS=True").identity(), built().identity()
    assert not any("row_bos" in text or "score_bos" in text for text in (*old, *old.values()))
    rules = {f"{name}.{rule}": "False" for name in ("Causal", "MaskedDiffusion") for rule in ("score_bos", "row_bos")}
    assert dict(new.items() - old.items()) == rules
