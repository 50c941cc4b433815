"""Usage against counts by hand: supervised tokens, loss-weight sums, and FLOPs by part."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from mixlm.losses.token_losses import CrossEntropy, MiLe
from mixlm.models.heads import TokenHead
from mixlm.models.llama import Llama
from mixlm.models.t5 import EncoderDecoder
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.network import bind
from mixlm.objectives.causal import Causal
from mixlm.objectives.masked_diffusion import MaskedDiffusion
from mixlm.objectives.mixing import PerExample
from mixlm.objectives.spactor import SpacTor
from mixlm.objectives.span_corruption import SpanCorruption
from mixlm.objectives.unrolled_diffusion import UnrolledDiffusion
from mixlm.optim.adamw import AdamW
from mixlm.optim.muon import Muon
from mixlm.optim.optimizer import Optimizer
from mixlm.parallel.mesh import Partitioning, batch_sharding, replicated
from mixlm.perf.accounting import Usage, flops_by_part, mfu_flops, part_of
from mixlm.perf.flops import flops_by_scope, matmul_flops
from mixlm.rng import row_keys
from mixlm.schedules import Constant
from mixlm.tokens import TokenIds
from mixlm.training.initial_state import initial_state
from mixlm.training.step import TrainStep

TOKENS = TokenIds(vocab_size=64, mask=3, bos=4, sentinels=8)
# 40 tokens: 6 of them noise, in 2 spans; so 34 + 2 + 1 are read and 6 + 2 + 1 said, and 5 of the 34 are masked.
ROWS, LENGTH, READ, SAID, MASKED = 8, 40, 37, 9, 5
SPANS = SpanCorruption(TOKENS)
SPACTOR = SpacTor(SPANS)
CAUSAL, DIFFUSION = Causal(TOKENS), MaskedDiffusion(TOKENS, shifted=False)
DUAL = PerExample((CAUSAL, DIFFUSION), (0.625,))
D, H, K, F, V = 24, 3, 8, 40, 64
SIZES = {"vocab_size": V, "emb_dim": D, "num_heads": H, "head_dim": K, "mlp_dim": F}
GENERATOR = {"vocab_size": V, "emb_dim": 16, "num_heads": 2, "head_dim": 4, "mlp_dim": 20, "num_layers": 1}
DECODER = (("model", Llama(**SIZES, num_layers=2)),)
SPACTORS = (
    ("generator", DecoderOnly(**GENERATOR, logits_via_embedding=True)),
    ("model", EncoderDecoder(**SIZES, num_encoder_layers=2, num_decoder_layers=3)),
    ("rtd_head", TokenHead(D)),
)
ADAM = Optimizer(AdamW(), Constant(0.01))
ONE = Partitioning().mesh(jax.devices()[:1])
NETWORKS = ("generator", "model", "rtd_head")


def batch(padded: int = 0) -> dict[str, jax.Array]:
    """Rows of text, of which the last ends with some padding."""
    rows = np.random.default_rng(0).integers(5, 56, (ROWS, LENGTH)).astype(np.int32)
    rows[-1, LENGTH - padded :] = 0
    return {"tokens": jnp.asarray(rows)}


def first_params(modules):
    return {name: meta.unbox(module.init(jax.random.key(1), *module.inputs())["params"]) for name, module in modules}


def supervised(objective, modules=DECODER, rows=None, step: int = 3) -> dict[str, tuple[float, float]]:
    """(tokens, mass) of each term of a forward pass; XLA drops what they do not need."""

    def forward(given):
        nets = bind(dict(modules), first_params(modules))
        terms = objective(nets, given, row_keys(0, step, ROWS), jnp.int32(step))
        return {name: term.supervised for name, term in terms.items() if "/" not in name}

    found = jax.jit(forward)(rows or batch())
    return {name: tuple(map(float, sums)) for name, sums in found.items()}


def test_span_corruption_supervises_spans_sentinels_and_eos():
    assert supervised(SPANS, SPACTORS) == {"span_corruption": (ROWS * SAID, ROWS * SAID)}


def test_spactor_supervises_masks_all_that_is_read_and_all_that_is_said():
    each = {"generator": ROWS * MASKED, "rtd": ROWS * READ, "span_corruption": ROWS * SAID}
    assert supervised(SPACTOR, SPACTORS) == {name: (count, count) for name, count in each.items()}


def test_dual_supervises_its_rows_by_share():
    rows, keys = batch(), row_keys(0, 3, ROWS)
    found = supervised(DUAL, rows=rows)
    # 0.625 of 8 rows are causal, all of whose tokens are said; of the rest those are said that are read as masks.
    assert found["causal"] == (5 * LENGTH, 5 * LENGTH)
    read = np.asarray(DUAL.corrupt(keys, rows, 3).decoder_input_tokens)
    masks = np.count_nonzero(read == TOKENS.mask, axis=1)
    assert np.count_nonzero(masks) == 3
    assert found["masked_diffusion"] == (masks.sum(), pytest.approx(3 * LENGTH, rel=1e-5))


def test_mile_weights_tokens_by_entropy():
    objective = Causal(TOKENS, loss=MiLe(gamma=2.0))
    params = jax.jit(lambda: first_params(DECODER))()
    example = objective.corrupt(row_keys(0, 3, ROWS), batch(), 3)
    logits = np.asarray(DECODER[0][1].apply({"params": params["model"]}, example), np.float64)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    scale = (1 - (p * np.log(p)).sum(-1)) ** 2
    assert supervised(objective) == {"causal": (ROWS * LENGTH, pytest.approx(scale.sum(), rel=1e-5))}


def test_unrolled_diffusion_supervises_what_follows_the_prefix_twice():
    whole = supervised(UnrolledDiffusion(TOKENS, prefix=False))
    assert whole == {name: (ROWS * LENGTH, ROWS * LENGTH) for name in ("denoise", "unroll")}
    said = 0
    for key in row_keys(0, 3, ROWS):
        split_key = jax.random.split(jax.random.split(key, 3)[0], 6)[0]
        said += LENGTH - int(jax.random.randint(split_key, (), 0, LENGTH))
    assert supervised(UnrolledDiffusion(TOKENS)) == dict.fromkeys(("denoise", "unroll"), (said, said))


def test_padding_is_not_supervised():
    rows = batch(padded=11)
    assert supervised(CAUSAL, rows=rows) == {"causal": (ROWS * LENGTH - 11, ROWS * LENGTH - 11)}


def jaxpr(objective, modules, optimizer=ADAM, microbatches: int = 1):
    """A whole step as it is traced."""
    _, shapes = initial_state(dict(modules), optimizer, 0, ONE)
    rows = jax.ShapeDtypeStruct((ROWS, LENGTH), np.int32, sharding=batch_sharding(ONE))
    seed = jax.ShapeDtypeStruct((), np.int32, sharding=replicated(ONE))
    step = jax.jit(TrainStep(modules, optimizer, microbatches).__call__, static_argnums=3)
    return step.trace(shapes, {"tokens": rows}, seed, objective).jaxpr


def parts(objective, modules, **options) -> dict[str, float]:
    return flops_by_part(flops_by_scope(jaxpr(objective, modules, **options)), tuple(name for name, _ in modules))


def attention(queries: int, keys: int, d: int, j: int) -> int:
    """Multiplications of query, key, value and out, and of scores and their mean, for one row."""
    return 2 * queries * d * j + 2 * keys * d * j + 2 * queries * keys * j


def mlp(tokens: int, d: int, f: int) -> int:
    """Two matrices in, one out."""
    return 3 * tokens * d * f


# Two FLOPs for a multiplication, forward once and backward twice.
TRAINED = 6 * ROWS


def llama_by_hand(length: int = LENGTH) -> dict[str, float]:
    layers = 2 * (attention(length, length, D, H * K) + mlp(length, D, F))
    return {"model": TRAINED * layers, "model_head": TRAINED * length * D * V}


def t5_by_hand() -> dict[str, float]:
    encoder = 2 * (attention(READ, READ, D, H * K) + mlp(READ, D, F))
    decoder = 3 * (attention(SAID, SAID, D, H * K) + attention(SAID, READ, D, H * K) + mlp(SAID, D, F))
    return {"model": TRAINED * (encoder + decoder), "model_head": TRAINED * SAID * D * V}


def test_span_corruption_costs_the_encoder_the_decoder_and_the_head():
    assert parts(SPANS, SPACTORS) == t5_by_hand()


def test_spactor_costs_a_generator_and_a_head_more():
    generator = attention(READ, READ, 16, 8) + mlp(READ, 16, 20)
    wanted = t5_by_hand() | {
        "generator": TRAINED * generator,
        "generator_head": TRAINED * MASKED * 16 * V,
        "rtd_head": TRAINED * READ * (D * D + D),
    }
    assert parts(SPACTOR, SPACTORS) == wanted


@pytest.mark.parametrize("objective", [CAUSAL, DUAL, Causal(TOKENS, loss=MiLe()), Causal(TOKENS, CrossEntropy(1e-4))])
def test_a_decoder_costs_its_layers_and_its_head_whatever_is_asked_of_it(objective):
    assert parts(objective, DECODER) == llama_by_hand()


def test_unrolled_diffusion_costs_two_passes():
    once = llama_by_hand()
    assert parts(UnrolledDiffusion(TOKENS), DECODER) == {part: 2 * flops for part, flops in once.items()}


def test_muons_products_are_the_optimizers():
    found = parts(CAUSAL, DECODER, optimizer=Optimizer(Muon(), Constant(0.01)))
    # Five rounds of X X', its square, and the sum of both times X; the shorter side first.
    matrices = 4 * [(D, H * K)] + 2 * [(D, F)] + [(D, F)]
    newton = sum(5 * 2 * (2 * min(m) ** 2 * max(m) + min(m) ** 3) for m in matrices)
    assert found == llama_by_hand() | {"optimizer": 2 * newton}


@pytest.mark.parametrize(("objective", "modules"), [(SPACTOR, SPACTORS), (DUAL, DECODER)])
def test_the_parts_are_the_whole(objective, modules):
    traced = jaxpr(objective, modules, optimizer=Optimizer(Muon(), Constant(0.01)), microbatches=4)
    found = flops_by_part(flops_by_scope(traced), tuple(name for name, _ in modules))
    assert math.fsum(found.values()) == matmul_flops(traced) and "other" not in found


def test_recomputation_is_in_the_cost_and_not_in_mfu():
    def loss(w, x):
        with jax.named_scope("model.hidden"):
            h = jax.checkpoint(lambda x: jnp.sin(jnp.sin(x @ w) @ w))(x)
        with jax.named_scope("model.logits"):
            return jnp.sum(jnp.sin(h @ w))

    w = jnp.ones((6, 6))
    scopes = flops_by_scope(jax.jit(jax.grad(loss)).trace(w, w).jaxpr)
    product = 2 * 6**3
    # Of x alone no gradient is asked: two layers cost 2 + 2 + 1 products and the two again, the head 3.
    assert flops_by_part(scopes, ("model",)) == {"model": 7 * product, "model_head": 3 * product}
    assert mfu_flops(scopes, ("model",)) == 8 * product


@pytest.mark.parametrize(
    ("scope", "part"),
    [
        ("/jvp(model.hidden)/Llama.hidden/layers_0", "model"),
        ("/transpose(jvp())/generator.logits/token_embedder.attend", "generator_head"),
        ("/transpose(jvp(rtd_head.__call__))/dense", "rtd_head"),
        ("/optimizer/muon", "optimizer"),
        ("/jvp(my_model.hidden)", "other"),
        ("/jvp()/Embed.logits", "other"),
    ],
)
def test_a_scope_belongs_to_the_outermost_call_of_a_network(scope, part):
    assert part_of(scope, NETWORKS) == part


FIGURES = {"loss": 2.0, "causal": 1.5, "causal/tokens": 5.0, "causal/mass": 5.0, "causal/share": 0.625}


def test_sums_add_up_by_stage_and_a_row_objective_has_its_share_of_the_flops():
    spent = Usage({})
    for share in (0.5, 1.0):
        spent.add("mix", FIGURES | {"causal/share": share})
    spent.add("causal", {"causal/tokens": 7.0, "causal/mass": 3.5})
    line = spent.line({"mix": {"model": 80.0, "model_head": 20.0}, "causal": {"model": 1.0, "other": 0.0}})
    assert line == {
        "spent/mix/steps": 2,
        "spent/mix/causal/tokens": 10,
        "spent/mix/causal/mass": 10.0,
        "spent/mix/causal/steps": 1.5,
        "spent/mix/flops": 100.0,
        "spent/mix/flops/model": 80.0,
        "spent/mix/flops/model_head": 20.0,
        "spent/mix/causal/flops": 75.0,
        "spent/causal/steps": 1,
        "spent/causal/causal/tokens": 7,
        "spent/causal/causal/mass": 3.5,
        "spent/causal/flops": 1.0,
        "spent/causal/flops/model": 1.0,
    }


def test_sums_resume_from_a_checkpoints_note():
    whole, half = Usage({}), Usage({})
    for index in range(6):
        whole.add("mix", FIGURES | {"causal/mass": 0.1 * index})
    for index in range(6):
        half.add("mix", FIGURES | {"causal/mass": 0.1 * index})
        half = Usage.from_note(json.loads(json.dumps({"tokens": 3} | half.note())))
    assert half.line({}) == whole.line({}) != {}


def test_a_note_without_sums_leaves_them_unknown():
    spent = Usage.from_note({"tokens": 512, "epoch": 0.1})
    spent.add("mix", FIGURES)
    assert spent.note() == {} and spent.line({"mix": {"model": 1.0}}) == {
        "spent/mix/flops": 1.0,
        "spent/mix/flops/model": 1.0,
    }


@pytest.mark.parametrize("value", ["12", None, True, [], 10**400], ids=["text", "null", "true", "list", "too large"])
def test_a_note_with_text_for_a_number_leaves_the_sums_unknown(value):
    note = {"spent/a/steps": 3, "spent/a/x/tokens": value, "tokens": 7}
    found = Usage.from_note(note)
    found.add("a", {"x/tokens": 8.0})
    assert found.note() == {}
    found = Usage.from_note(note | {"spent/a/x/tokens": 5})
    found.add("a", {"x/tokens": 8.0})
    assert found.note() == {"spent/a/steps": 4, "spent/a/x/tokens": 13}
