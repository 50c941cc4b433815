"""What layers keep for their gradient, and whether they are scanned, changes memory and time, and no number."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from mixlm.errors import UserError
from mixlm.example import Example
from mixlm.models.decoder import DecoderOnly
from mixlm.models.layout import stack_layers, unstack_layers
from mixlm.models.llama import Llama
from mixlm.models.ltg_bert import LTGBert
from mixlm.models.stack import POLICIES, Execution
from mixlm.models.t5 import EncoderDecoder

TINY = {"vocab_size": 96, "emb_dim": 32, "num_heads": 4, "head_dim": 8, "mlp_dim": 64}
NETWORKS = {
    "encoder-decoder": EncoderDecoder(**TINY, num_encoder_layers=3, num_decoder_layers=2, dropout_rate=0.2),
    "decoder-only": DecoderOnly(**TINY, num_layers=3, dropout_rate=0.2),
    # Its initial matrices differ in size from layer to layer.
    "dual": Llama(**TINY, num_layers=3, init_std=None, projection_head=True),
    "ltg_bert": LTGBert(**TINY, num_layers=3, num_buckets=8, dropout_rate=0.2),
}
ALL = pytest.mark.parametrize("name", NETWORKS)
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
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), found, wanted)


@ALL
def test_a_policy_changes_no_gradient_nor_the_noise_of_dropout(name):
    network = NETWORKS[name]
    for policy in ("nothing_saveable", "dots_with_no_batch_dims_saveable"):
        kept = network.clone(execution=Execution(remat=policy))
        assert parameters(kept).keys() == parameters(network).keys()
        close(gradients(kept, True), gradients(network, True))


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_gives_the_same_gradients(policy):
    network = NETWORKS["dual"]
    close(gradients(network.clone(execution=Execution(remat=policy)), False), gradients(network, False))


@ALL
def test_a_scan_gives_the_gradients_of_the_layers_one_by_one(name):
    network = NETWORKS[name]
    wanted = gradients(network, False)
    for execution in (SCANNED, Execution(scan=True, remat="nothing_saveable")):
        value, found = gradients(network.clone(execution=execution), False)
        close((value, unstack_layers(found)), wanted)


@ALL
def test_the_same_seed_starts_a_scanned_network_alike(name):
    network = NETWORKS[name]
    scanned = network.clone(execution=SCANNED)
    boxed = scanned.init(jax.random.key(1), example())["params"]
    close(unstack_layers(meta.unbox(boxed)), meta.unbox(network.init(jax.random.key(1), example())["params"]))
    for leaf in jax.tree.leaves(boxed, is_leaf=lambda leaf: isinstance(leaf, meta.AxisMetadata)):
        assert len(leaf.names) == leaf.value.ndim


@ALL
def test_dropout_of_a_scanned_network_differs_from_layer_to_layer(name):
    """With the same weights in every layer, noise that all layers shared would drop the same features in each."""
    network = NETWORKS[name].clone(execution=SCANNED)
    if name == "dual":
        assert not hasattr(network, "dropout_rate")
        return
    keys = []

    def noted(key, *rest, **named):
        keys.append(jax.random.key_data(key))
        return bernoulli(key, *rest, **named)

    bernoulli = jax.random.bernoulli
    with pytest.MonkeyPatch.context() as patch, jax.disable_jit():
        patch.setattr(jax.random, "bernoulli", noted)
        rngs = {"dropout": jax.random.key(5)}
        network.apply({"params": parameters(network)}, example(), method="hidden", rngs=rngs)
    assert len(keys) == len({tuple(np.asarray(key).tolist()) for key in keys}) > 6


def read_in_pieces(network):
    """Hidden states of five tokens, then one, then one, by a cache."""
    part = example()
    params = {"params": parameters(network)}

    @partial(jax.jit, static_argnums=0, compiler_options=QUICK)
    def call(method, *inputs):
        return network.apply(params, *inputs, method=method)

    cache = network.apply(params, part, 8, method="empty_cache")
    found = []
    for start, end in ((0, 5), (5, 6), (6, 7)):
        names = ("decoder_input_tokens", "decoder_target_tokens", "decoder_loss_weights", "decoder_mask_ar")
        piece = Example(**{name: getattr(part, name)[:, start:end] for name in names})
        hidden, cache = call("extend", piece, cache)
        found.append(hidden)
    return jnp.concatenate(found, axis=1), cache


@ALL
def test_a_scanned_network_reads_with_a_cache(name):
    plain = NETWORKS[name]
    found, cache = read_in_pieces(plain.clone(execution=SCANNED))
    wanted, wanted_cache = read_in_pieces(plain)
    close((found, cache), (wanted, wanted_cache))


@ALL
def test_a_scanned_program_is_no_longer_for_more_layers(name):
    def size(layers, execution):
        depths = {key: layers for key in ("num_layers", "num_encoder_layers", "num_decoder_layers")}
        network = NETWORKS[name]
        network = network.clone(execution=execution, **{k: v for k, v in depths.items() if hasattr(network, k)})
        shapes = meta.unbox(jax.eval_shape(network.init, jax.random.key(0), example())["params"])

        def loss(params):
            return jnp.sum(network.apply({"params": params}, example(), method="hidden"))

        return len(jax.jit(jax.grad(loss)).lower(shapes).as_text().splitlines())

    assert size(6, SCANNED) == size(3, SCANNED) < size(3, Execution()) < size(6, Execution())


def test_a_network_is_the_same_network_however_it_is_run():
    for network in NETWORKS.values():
        assert repr(network.clone(execution=Execution("dots_saveable", True))) == repr(network)
        assert "xecution" not in repr(network)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"remat": "dots_savable"}, r"^REMAT = 'dots_savable' is no policy .* Did you mean 'dots_saveable'\?$"),
        ({"remat": "save_only_these_names"}, r"^REMAT = 'save_only_these_names' is no policy"),
        ({"remat": True}, r"^REMAT = True is no policy"),
        ({"scan": 1}, r"^SCAN_LAYERS = 1 must be True or False\.$"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(settings, message):
    with pytest.raises(UserError, match=message):
        Execution(**settings)
