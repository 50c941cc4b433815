"""Rematerialisation and scan over layers change memory and time, and no value."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.core import meta

from mixlm.errors import UserError
from mixlm.example import Example
from mixlm.models.gpt_bert import GPTBert
from mixlm.models.layer_stack import POLICIES, Execution, apply_layers, stacked
from mixlm.models.layers import Dropout
from mixlm.models.llama import Llama
from mixlm.models.ltg_bert import LTGBert
from mixlm.models.t5 import EncoderDecoder
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.params import stack_layers, unstack_layers

TINY = {"vocab_size": 96, "emb_dim": 32, "num_heads": 4, "head_dim": 8, "mlp_dim": 64}
NETWORKS = {
    "encoder-decoder": EncoderDecoder(**TINY, num_encoder_layers=2, num_decoder_layers=2, dropout_rate=0.2),
    "decoder-only": DecoderOnly(**TINY, num_layers=2, dropout_rate=0.2),
    # Its initial matrices differ in size from layer to layer.
    "dual": Llama(**TINY, num_layers=2, init_std=None, projection_head=True),
    "ltg_bert": LTGBert(**TINY, num_layers=2, num_buckets=8, dropout_rate=0.2),
    "gpt_bert": GPTBert(**TINY, num_layers=2, num_buckets=8, dropout_rate=0.2),
}
ALL = pytest.mark.parametrize("name", NETWORKS)
# A layer of GPT-BERT reads the outputs of all layers before it.
LOOPS = pytest.mark.parametrize("name", [name for name in NETWORKS if name != "gpt_bert"])
QUICK = {"xla_backend_optimization_level": 0}
SCANNED = Execution(scan=True)


def rows(seed: int, *shape: int):
    return jnp.asarray(np.random.default_rng(seed).integers(1, 96, shape), jnp.int32)


def example() -> Example:
    tokens = rows(0, 2, 7)
    mask_ar = jnp.asarray([[1] * 7, [0, 0, 0, 1, 1, 0, 1]])
    return Example(tokens, tokens, jnp.ones((2, 7)), mask_ar, encoder_input_tokens=rows(1, 2, 5))


@cache
def parameters(network):
    """Parameters of the network's own layout; norms' scales and biases away from their first values."""
    params = meta.unbox(network.clone(execution=Execution()).init(jax.random.key(3), example())["params"])
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), params)
    return stack_layers(params) if network.execution.scan else params


@cache
def gradients(network, dropout: bool):
    """The hidden states' weighted sum, and the gradient of every parameter."""
    rngs = {"dropout": jax.random.key(5)} if dropout else None

    def loss(params):
        hidden = network.apply({"params": params}, example(), method="hidden", rngs=rngs)
        logits = network.apply({"params": params}, hidden, method="logits")
        return jnp.mean(jax.nn.log_softmax(logits)[..., 7] ** 2)

    return jax.jit(jax.value_and_grad(loss), compiler_options=QUICK)(parameters(network))


def close(found, wanted):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), found, wanted)


@ALL
def test_remat_changes_neither_gradients_nor_dropout_noise(name):
    network, dropout = NETWORKS[name], name == "encoder-decoder"
    kept = network.clone(execution=Execution(remat="nothing_saveable"))
    assert parameters(kept).keys() == parameters(network).keys()
    close(gradients(kept, dropout), gradients(network, dropout))


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_gives_the_same_gradients(policy):
    network = NETWORKS["dual"].clone(num_layers=1)
    close(gradients(network.clone(execution=Execution(remat=policy)), False), gradients(network, False))


@LOOPS
def test_scan_gives_the_gradients_of_unrolled_layers(name):
    network = NETWORKS[name]
    remat = "nothing_saveable" if name in ("dual", "encoder-decoder") else None
    value, found = gradients(network.clone(execution=Execution(scan=True, remat=remat)), False)
    close((value, unstack_layers(found)), gradients(network, False))


@LOOPS
def test_scanned_and_unrolled_networks_have_the_same_initial_parameters(name):
    network = NETWORKS[name]
    scanned = network.clone(execution=SCANNED)
    boxed = scanned.init(jax.random.key(1), example())["params"]
    close(unstack_layers(meta.unbox(boxed)), meta.unbox(network.init(jax.random.key(1), example())["params"]))
    for leaf in jax.tree.leaves(boxed, is_leaf=lambda leaf: isinstance(leaf, meta.AxisMetadata)):
        assert len(leaf.names) == leaf.value.ndim


class Marks(nn.Module):
    """Writes down which features its dropout keeps, as a digit behind those of the layers before."""

    @nn.compact
    def __call__(self, x, past):
        return 2 * x + (Dropout(0.5)(jnp.ones_like(x)) > 0), None


class Noted(nn.Module):
    """Three such layers."""

    execution: Execution

    def setup(self):
        self.layers = stacked(lambda _: Marks(), 3, self.execution)

    def __call__(self, x):
        return apply_layers(self.layers, 3, self.execution, x, None)[0]


@pytest.mark.parametrize("execution", [Execution(), SCANNED, Execution(scan=True, remat="nothing_saveable")])
def test_dropout_differs_from_layer_to_layer(execution):
    digits = Noted(execution).apply({}, jnp.zeros((1, 1, 4000)), rngs={"dropout": jax.random.key(0)})
    kept = [np.asarray(digits, int) // 2**place % 2 for place in range(3)]
    for place, layer in enumerate(kept):
        assert 0.45 < layer.mean() < 0.55
        assert all(0.45 < (layer == other).mean() < 0.55 for other in kept[:place])


def read_in_pieces(network):
    """Hidden states of six tokens, then of one, by a cache."""
    part = example()
    params = {"params": parameters(network)}

    @partial(jax.jit, static_argnums=0, compiler_options=QUICK)
    def call(method, *inputs):
        return network.apply(params, *inputs, method=method)

    cache = network.apply(params, part, 8, method="empty_cache")
    found = []
    for start, end in ((0, 6), (6, 7)):
        names = ("decoder_input_tokens", "decoder_target_tokens", "decoder_loss_weights", "decoder_mask_ar")
        piece = Example(**{name: getattr(part, name)[:, start:end] for name in names})
        hidden, cache = call("extend", piece, cache)
        found.append(hidden)
    return jnp.concatenate(found, axis=1), cache


@pytest.mark.parametrize("name", ["encoder-decoder", "dual"])
def test_a_scanned_network_decodes_with_a_cache(name):
    plain = NETWORKS[name]
    found, cache = read_in_pieces(plain.clone(execution=SCANNED))
    wanted, wanted_cache = read_in_pieces(plain)
    close((found, cache), (wanted, wanted_cache))


@pytest.mark.parametrize("name", ["encoder-decoder", "ltg_bert"])
def test_a_scanned_program_does_not_grow_with_layers(name):
    def size(layers, execution):
        depths = {key: layers for key in ("num_layers", "num_encoder_layers", "num_decoder_layers")}
        network = NETWORKS[name]
        network = network.clone(execution=execution, **{k: v for k, v in depths.items() if hasattr(network, k)})
        shapes = meta.unbox(jax.eval_shape(network.init, jax.random.key(0), example())["params"])

        def loss(params):
            return jnp.sum(network.apply({"params": params}, example(), method="hidden"))

        return len(jax.jit(jax.grad(loss)).lower(shapes).as_text().splitlines())

    assert size(5, SCANNED) == size(2, SCANNED) < size(3, Execution())


def test_execution_is_not_part_of_a_networks_repr():
    for name, network in NETWORKS.items():
        assert repr(network.clone(execution=Execution("dots_saveable", name != "gpt_bert"))) == repr(network)
        assert "xecution" not in repr(network)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"remat": "dots_savable"}, r"^REMAT = 'dots_savable' is no policy .* Did you mean 'dots_saveable'\?$"),
        ({"remat": "save_only_these_names"}, r"^REMAT = 'save_only_these_names' is no policy"),
    ],
)
def test_bad_execution_options_are_refused_in_one_sentence(settings, message):
    with pytest.raises(UserError, match=message):
        Execution(**settings)
