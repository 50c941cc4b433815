"""A mixed objective costs the products that its parts need and no others, at the size of the small recipes."""

from functools import cache, partial

import jax
import numpy as np
import pytest

from mixlm.losses.score import score, score_rows
from mixlm.losses.token_losses import CrossEntropy, Focal, MiLe
from mixlm.models.llama import Llama
from mixlm.objectives.causal import Causal
from mixlm.objectives.masked_diffusion import MaskedDiffusion
from mixlm.objectives.masked_lm import MaskedLM
from mixlm.objectives.mixing import PerExample
from mixlm.objectives.prefix_lm import PrefixLM
from mixlm.objectives.unrolled_diffusion import UnrolledDiffusion
from mixlm.optim.adamw import AdamW
from mixlm.optim.optimizer import Optimizer
from mixlm.parallel.mesh import Partitioning, batch_sharding, replicated
from mixlm.perf.flops import matmul_flops
from mixlm.schedules import Constant
from mixlm.tokens import TokenIds
from mixlm.training.initial_state import initial_state
from mixlm.training.step import TrainStep

TOKENS = TokenIds(vocab_size=8192, mask=3, bos=4)
MODULES = (("model", Llama(8192, emb_dim=128, num_heads=4, head_dim=32, mlp_dim=344, num_layers=4)),)
OPTIMIZER = Optimizer(AdamW(), Constant(0.01))
ONE = Partitioning().mesh(jax.devices()[:1])
CAUSAL = Causal(TOKENS)
MIXES = {
    "dual": PerExample((CAUSAL, MaskedDiffusion(TOKENS)), (0.5,)),
    "gpt-bert": PerExample((CAUSAL, MaskedLM(TOKENS)), (0.0625,)),
    "both losses weighed": PerExample((Causal(TOKENS, MiLe()), MaskedDiffusion(TOKENS, MiLe())), (0.5,)),
}


@cache
def flops(objective, length: int = 128) -> float:
    """The products of a whole step of four rows."""
    _, shapes = initial_state(dict(MODULES), OPTIMIZER, 0, ONE)
    rows = jax.ShapeDtypeStruct((4, length), np.int32, sharding=batch_sharding(ONE))
    seed = jax.ShapeDtypeStruct((), np.int32, sharding=replicated(ONE))
    step = jax.jit(TrainStep(MODULES, OPTIMIZER).__call__, static_argnums=3)
    return matmul_flops(step.trace(shapes, {"tokens": rows}, seed, objective).jaxpr)


@pytest.mark.parametrize("mix", MIXES)
def test_a_mix_of_rows_costs_one_of_its_parts(mix):
    assert flops(CAUSAL) <= flops(MIXES[mix]) <= 1.02 * flops(CAUSAL)


@pytest.mark.parametrize("mix", ["dual", "gpt-bert"])
def test_a_mix_of_rows_costs_one_of_its_parts_with_chunked_logits(mix, monkeypatch):
    for place, function in (("objectives.mixing.score_rows", score_rows), ("objectives.base.score", score)):
        monkeypatch.setattr(f"mixlm.{place}", partial(function, max_logits=8192 * 128))
    causal, mixed = (flops.__wrapped__(objective, 512) for objective in (CAUSAL, MIXES[mix]))
    assert causal <= mixed <= 1.02 * causal


@pytest.mark.parametrize("length", [128, 512])
@pytest.mark.parametrize("loss", [MiLe(gamma=2.0), Focal(), CrossEntropy(z_loss=1e-4)])
def test_scaled_losses_cost_no_further_product(loss, length):
    assert flops(Causal(TOKENS, loss), length) == flops(CAUSAL, length)


@pytest.mark.parametrize("length", [128, 512])
def test_unrolled_diffusion_costs_its_two_passes(length):
    once = flops(PrefixLM(TOKENS), length)
    assert 2 * once <= flops(UnrolledDiffusion(TOKENS), length) <= 2.05 * once
