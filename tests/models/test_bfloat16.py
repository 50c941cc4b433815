"""In bfloat16, norms, softmaxes, losses and the training state stay in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from mixlm.example import Example
from mixlm.losses.score import score
from mixlm.losses.token_losses import CrossEntropy
from mixlm.models.gpt_bert import GPTBert
from mixlm.models.layer_stack import Execution
from mixlm.models.llama import Llama
from mixlm.models.ltg_bert import LTGBert
from mixlm.models.t5 import EncoderDecoder
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.objectives.causal import Causal
from mixlm.optim.adafactor import Adafactor
from mixlm.optim.adamw import AdamW
from mixlm.optim.lamb import LAMB
from mixlm.optim.muon import Muon
from mixlm.optim.optimizer import Optimizer
from mixlm.parallel.mesh import Partitioning
from mixlm.schedules import Constant
from mixlm.tokens import TokenIds
from mixlm.training.initial_state import initial_state
from mixlm.training.step import TrainStep

TINY = {"vocab_size": 96, "emb_dim": 32, "num_heads": 4, "head_dim": 8, "mlp_dim": 64, "dtype": "bfloat16"}
NETWORKS = {
    "encoder-decoder": EncoderDecoder(**TINY, num_encoder_layers=1, num_decoder_layers=1),
    "decoder-only": DecoderOnly(**TINY, num_layers=1),
    "llama": Llama(**TINY, num_layers=1, projection_head=True),
    "ltg_bert": LTGBert(**TINY, num_layers=1, num_buckets=8),
    "gpt_bert": GPTBert(**TINY, num_layers=1, num_buckets=8),
}
# What softmax, norms and costs are made of.
EXACT = ("exp", "log", "rsqrt", "sqrt", "cumsum", "reduce_max")


def primitives(jaxpr):
    """Every operation of a traced function, those within others too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from primitives(inner)


CASES = [(name, scan) for name in NETWORKS if name != "gpt_bert" for scan in (False, True)]
CASES += [pytest.param("gpt_bert", False, marks=pytest.mark.slow)]  # its layers are not scanned


@pytest.mark.parametrize(("name", "scan"), CASES)
def test_norms_softmax_and_losses_are_computed_in_float32(name, scan):
    network = NETWORKS[name].clone(execution=Execution(scan=scan, remat="nothing_saveable" if scan else None))
    tokens = jnp.ones((2, 5), jnp.int32)
    example = Example(tokens, tokens, jnp.ones((2, 5)), tokens, encoder_input_tokens=tokens)
    params = meta.unbox(jax.eval_shape(network.init, jax.random.key(0), example)["params"])

    def loss(params):
        def logits(hidden):
            return network.apply({"params": params}, hidden, method="logits")

        hidden = network.apply({"params": params}, example, method="hidden")
        assert hidden.dtype == jnp.bfloat16 and logits(hidden).dtype == jnp.float32
        return score(logits, hidden, tokens, jnp.ones((2, 5)), CrossEntropy()).total

    gradients = jax.eval_shape(jax.grad(loss), params)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((params, gradients)))
    traced = jax.jit(loss).trace(params)
    found = [(e.primitive.name, v.aval.dtype) for e in primitives(traced.jaxpr.jaxpr) for v in e.outvars]
    wide = [dtype for kind, dtype in found if kind in EXACT and jnp.issubdtype(dtype, jnp.floating)]
    assert len(wide) >= 4 and set(wide) == {np.dtype("float32")}
    products = [dtype for kind, dtype in found if kind == "dot_general"]
    assert products.count(jnp.bfloat16) > len(products) / 2, "the products of the layers are what is quick in bfloat16"


@pytest.mark.parametrize("rule", [Adafactor(), AdamW(), Muon(), LAMB()], ids=lambda rule: type(rule).__name__)
def test_a_step_in_bfloat16_keeps_a_float32_state(rule):
    optimizer, tokens = Optimizer(rule, Constant(0.1)), TokenIds(96, mask=4, bos=3, sentinels=8)
    mesh = Partitioning().mesh(jax.devices()[:1])
    modules = {"model": NETWORKS["llama"]}
    _, shapes = initial_state(modules, optimizer, 0, mesh)
    step = TrainStep(tuple(modules.items()), optimizer, microbatches=2)
    batch = {"tokens": jax.ShapeDtypeStruct((2, 8), np.int32)}
    after, figures = jax.eval_shape(lambda *given: step(*given, Causal(tokens)), shapes, batch, jnp.int32(0))
    same = jax.tree.map(lambda a, b: a.shape == b.shape and a.dtype == b.dtype, after, shapes)
    assert all(jax.tree.leaves(same))
    for leaf in jax.tree.leaves((after.params, after.opt_state, figures)):
        assert leaf.dtype in (jnp.float32, jnp.int32)
