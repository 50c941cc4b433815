"""What pads the end of a run is neither read, nor said, nor counted, under any objective."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.losses.token_losses import MiLe
from mixlm.models.heads import TokenHead
from mixlm.models.t5 import EncoderDecoder
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.network import bind
from mixlm.objectives.causal import Causal
from mixlm.objectives.continuation import Continuation
from mixlm.objectives.corruption import before_padding, span_mask
from mixlm.objectives.masked_diffusion import MaskedDiffusion
from mixlm.objectives.masked_lm import MaskedLM
from mixlm.objectives.mixing import PerExample, Sum
from mixlm.objectives.prefix_lm import PrefixLM
from mixlm.objectives.spactor import SpacTor
from mixlm.objectives.span_corruption import SpanCorruption
from mixlm.objectives.unrolled_diffusion import UnrolledDiffusion
from mixlm.rng import row_keys
from mixlm.tokens import TokenIds

TOKENS = TokenIds(60, 39, sentinels=20, bos=7)
FIRST, EOS, LENGTH = 59, 1, 20
SPANS = SpanCorruption(TOKENS, noise_density=0.3)
SIZES = {"vocab_size": 60, "emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 16, "logits_via_embedding": False}
DECODER = {"model": DecoderOnly(**SIZES, num_layers=1)}
BOTH = {
    "model": EncoderDecoder(**SIZES, num_encoder_layers=1, num_decoder_layers=1),
    "generator": DecoderOnly(**SIZES, num_layers=1),
    "rtd_head": TokenHead(16),
}
CAUSAL, DIFFUSION, MASKED = Causal(TOKENS), MaskedDiffusion(TOKENS), MaskedLM(TOKENS, mask_rate=0.4)
UNROLLED = UnrolledDiffusion(TOKENS, short_targets=0.5)
OBJECTIVES = {
    "causal": (CAUSAL, DECODER),
    "causal by document": (Causal(TOKENS, separate_documents=True), DECODER),
    "mile": (Causal(TOKENS, loss=MiLe()), DECODER),
    "prefix": (PrefixLM(TOKENS), DECODER),
    "masked": (MASKED, DECODER),
    "diffusion": (DIFFUSION, DECODER),
    "the release's": (MaskedDiffusion(TOKENS, score_last=True), DECODER),
    "unrolled": (UNROLLED, DECODER),
    "unrolled by document": (UnrolledDiffusion(TOKENS, separate_documents=True), DECODER),
    "sum": (Sum((CAUSAL, UNROLLED), (1.0, 1.0)), DECODER),
    "spans": (SPANS, BOTH),
    "spans by document": (SpanCorruption(TOKENS, noise_density=0.3, separate_documents=True), BOTH),
    "spactor": (SpacTor(SPANS, mask_rate=0.4), BOTH),
    "continuation": (Continuation(TOKENS, SPANS), BOTH),
}


def text(rows: int, real: int = LENGTH) -> np.ndarray:
    """Rows of which the first `real` tokens are text, some of them BOS, and the rest is padding."""
    drawn = np.random.default_rng(real).integers(2, 38, (rows, LENGTH)).astype(np.int32)
    drawn[:, 5::6] = TOKENS.bos
    drawn[:, real:] = 0
    return drawn


@cache
def params_of(encoder: bool):
    modules = BOTH if encoder else DECODER
    return {
        name: meta.unbox(module.init(jax.random.key(1), *module.inputs())["params"]) for name, module in modules.items()
    }


@cache
def running(name: str):
    objective, modules = OBJECTIVES[name]

    def run(params, tokens, keys):
        nets = bind(modules, {network: params[network] for network in objective.networks})
        return objective(nets, {"tokens": tokens}, keys, jnp.zeros((), jnp.int32))

    return jax.jit(run)


def sums(name: str, tokens: np.ndarray, params=None) -> dict[str, tuple[float, float]]:
    params = params or params_of(OBJECTIVES[name][1] is BOTH)
    terms = running(name)(params, jnp.asarray(tokens), row_keys(0, 0, len(tokens)))
    return {term: (float(found.total), float(found.count)) for term, found in terms.items()}


def without_pad(params):
    """The parameters with another embedding of padding in every network."""

    def changed(path, leaf):
        return leaf.at[0].set(5.0) if path[-1].key == "embedding" else leaf

    return jax.tree_util.tree_map_with_path(changed, params)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_rows_of_padding_add_nothing(name):
    whole, first, last = text(6), text(6), text(6)
    first[3:] = last[:3] = 0
    parts = [sums(name, rows) for rows in (first, last)]
    nothing = sums(name, np.zeros_like(whole))
    assert all(total == count == 0 for total, count in nothing.values())
    for term, wanted in sums(name, whole).items():
        np.testing.assert_allclose(np.add(parts[0][term], parts[1][term]), wanted, rtol=1e-5, err_msg=term)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if "unrolled" not in name and name != "sum"])
def test_the_padding_of_a_row_is_not_read(name):
    params = params_of(OBJECTIVES[name][1] is BOTH)
    rows = np.concatenate([text(2, real) for real in (3, 11, 19)])
    found, other = sums(name, rows), sums(name, rows, without_pad(params))
    assert any(count > 0 for _, count in found.values())
    for term in found:
        np.testing.assert_allclose(other[term], found[term], rtol=1e-5, err_msg=term)


@pytest.mark.parametrize("name", ["unrolled", "unrolled by document"])
def test_diffusion_whose_noise_may_be_any_token_leaves_padding_out_as_well(name):
    objective = OBJECTIVES[name][0]
    rows = np.concatenate([text(8, real) for real in (0, 3, 11, 20)])
    first = jax.jit(objective.first)(row_keys(0, 0, len(rows)), {"tokens": jnp.asarray(rows)}).first
    np.testing.assert_array_equal(np.asarray(first.decoder_segment_ids) > 0, rows > 0)
    assert np.all(np.asarray(first.decoder_loss_weights)[rows == 0] == 0)


def test_what_is_counted_of_a_padded_row_is_its_text():
    reals = (0, 1, 7, 20, 12, 0)
    rows = np.concatenate([text(1, real) for real in reals])
    assert sums("causal", rows)["causal"][1] == sum(reals)
    assert sums("diffusion", rows)["masked_diffusion"][1] == sum(reals)
    words = [int(np.sum((row != TOKENS.bos) & (row > 2))) for row in rows]
    assert abs(sums("masked", rows)["masked_lm"][1] - 0.4 * sum(words)) <= len(rows)
    unrolled = sums("unrolled", rows)
    assert 0 < unrolled["denoise"][1] == unrolled["unroll"][1] < sum(reals)


def test_the_share_of_a_mix_leaves_rows_of_padding_out():
    mix = PerExample((CAUSAL, DIFFUSION), (0.5,))
    tokens = jnp.asarray(np.concatenate([text(4), np.zeros((4, LENGTH), np.int32)]))
    run = jax.jit(lambda params, keys: mix(bind(DECODER, params), {"tokens": tokens}, keys, jnp.zeros((), jnp.int32)))
    terms = run(params_of(False), row_keys(0, 0, 8))
    assert float(terms["causal/share"].count) == 4
    assert float(terms["causal/share"].total + terms["masked_diffusion/share"].total) == 4


def test_of_a_padded_row_spactor_masks_the_rate_of_what_is_there():
    spactor = OBJECTIVES["spactor"][0]
    rows = text(200, 11)
    example, places, _, masked = jax.jit(spactor.mask)(row_keys(0, 0, 200), {"tokens": jnp.asarray(rows)})
    inputs = np.asarray(example.encoder_input_tokens)
    words = np.sum((inputs > EOS) & (inputs < 40), axis=1)
    np.testing.assert_array_equal(np.sum(np.asarray(masked), axis=1), np.round(0.4 * words))
    chosen = [np.asarray(places)[row][np.asarray(masked)[row]] for row in range(len(rows))]
    hidden = [inputs[row, where] for row, where in enumerate(chosen)]
    assert all(np.all((row > EOS) & (row < 40)) for row in hidden)
    assert len({tuple(where) for where in chosen[:30]}) > 15
    # Any word is as likely as another: where those that are masked stand among all, from 0 to 1, has the mean 1/2.
    standing = []
    for row, where in enumerate(chosen):
        (text_places,) = np.nonzero((inputs[row] > EOS) & (inputs[row] < 40))
        standing += (np.searchsorted(text_places, where) / (len(text_places) - 1)).tolist()
    spread = np.sqrt(1 / 8 / len(standing))  # of the mean; uniform places vary by 1/8 at most
    assert abs(np.mean(standing) - 0.5) < 4 * spread, np.mean(standing)


def slow_spans(row: list[int], mask: list[bool]) -> tuple[list[int], list[int]]:
    """The inputs and targets of a row without padding, token by token."""
    inputs, targets, sentinel = [], [], FIRST + 1
    for place, (token, hidden) in enumerate(zip(row, mask)):
        if hidden and not (place and mask[place - 1]):
            sentinel -= 1
            inputs.append(sentinel)
            targets.append(sentinel)
        (targets if hidden else inputs).append(token)
    return (inputs and [*inputs, EOS]), (targets and [*targets, EOS])


@cache
def spans_of(separate: bool):
    objective = SpanCorruption(TOKENS, noise_density=0.3, separate_documents=separate)
    return jax.jit(objective.corrupt), jax.jit(jax.vmap(lambda key: span_mask(key, LENGTH, 6, 2)))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(real=st.integers(0, LENGTH), seed=st.integers(0, 2**16))
def test_of_a_padded_row_the_spans_of_its_text_are_said(real, seed):
    corrupt, masks = spans_of(False)
    keys, row = row_keys(seed, 0, 1), text(1, real)
    example, mask = corrupt(keys, {"tokens": jnp.asarray(row)}), np.asarray(masks(keys))[0]
    inputs, targets = slow_spans(row[0, :real].tolist(), mask[:real].tolist())
    said = np.asarray(example.decoder_target_tokens)[0]
    read = np.asarray(example.encoder_input_tokens)[0]
    assert read.tolist() == inputs + [0] * (len(read) - len(inputs))
    assert said.tolist() == targets + [0] * (len(said) - len(targets))
    assert np.asarray(example.decoder_loss_weights)[0].tolist() == [float(token > 0) for token in said]


def slow_documents(row: list[int], mask: list[bool]) -> tuple[list[int], list[int]]:
    """The documents that each input and each position of the decoder is in, token by token."""
    document, documents = 0, []
    for place, token in enumerate(row):
        document += token == TOKENS.bos or place == 0
        documents.append(document)
    read, said = [], []
    for place, hidden in enumerate(mask):
        if hidden and not (place and mask[place - 1]):
            read.append(documents[place])
            said.append(documents[place])  # its sentinel
        (said if hidden else read).append(documents[place])
    read = read and [*read, documents[-1]]
    # A position is in the document of the token that it reads, which is the one before the token that it says.
    heard = [said[0], *said] if said else []
    return read, [document if document in read else 0 for document in heard]


@settings(deadline=None, derandomize=True, max_examples=120)
@given(
    starts=st.lists(st.booleans(), min_size=LENGTH, max_size=LENGTH),
    real=st.integers(0, LENGTH),
    seed=st.integers(0, 2**16),
)
def test_spans_are_told_apart_by_the_document_of_what_is_read(starts, real, seed):
    row = np.where(starts, TOKENS.bos, text(1)[0]).astype(np.int32)
    row[real:] = 0
    corrupt, masks = spans_of(True)
    keys = row_keys(seed, 0, 1)
    example, mask = corrupt(keys, {"tokens": jnp.asarray(row)[None]}), np.asarray(masks(keys))[0]
    read, heard = slow_documents(row[:real].tolist(), mask[:real].tolist())
    found = [np.asarray(ids)[0].tolist() for ids in (example.encoder_segment_ids, example.decoder_segment_ids)]
    assert found[0] == read + [0] * (len(found[0]) - len(read))
    assert found[1] == heard + [0] * (len(found[1]) - len(heard))
    assert np.asarray(example.decoder_loss_weights)[0].tolist() == [float(document > 0) for document in found[1]]


def test_no_position_depends_on_another_document():
    """The network's own answer: what one document holds changes nothing that is scored in the other."""
    corrupt, _ = spans_of(True)
    net = bind({"model": BOTH["model"]}, {"model": params_of(True)["model"]})["model"]
    run = jax.jit(lambda example: (net.logits(net.hidden(example)), net.encode(example)))
    rows, keys = np.random.default_rng(0).integers(8, 38, (32, LENGTH)).astype(np.int32), row_keys(0, 0, 32)
    rows[:, 9] = TOKENS.bos
    for first, second in ((slice(0, 9), 2), (slice(10, 20), 1)):
        others = rows.copy()
        others[:, first] = 8 + (others[:, first] + 5) % 30
        one, other = (corrupt(keys, {"tokens": jnp.asarray(tokens)}) for tokens in (rows, others))
        scored = np.asarray((one.decoder_segment_ids == second) & (one.decoder_loss_weights > 0))
        # The first position of a document reads its own BOS, so all that it reads is the same in both.
        said, heard = run(one), run(other)
        assert scored.any()
        np.testing.assert_allclose(np.asarray(said[0])[scored], np.asarray(heard[0])[scored], atol=1e-5)
        within = np.asarray(one.encoder_segment_ids == second)
        np.testing.assert_allclose(np.asarray(said[1])[within], np.asarray(heard[1])[within], atol=1e-5)
        assert np.abs(np.asarray(said[1])[~within] - np.asarray(heard[1])[~within]).max() > 0.1


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_padding_is_at_the_end(row):
    real = len("".join(map(str, row)).rstrip("0"))
    assert np.asarray(before_padding(jnp.asarray(row), 0)).tolist() == [place < real for place in range(len(row))]
