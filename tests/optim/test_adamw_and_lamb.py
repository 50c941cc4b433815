"""AdamW and LAMB agree with the papers' algorithms in NumPy, and with optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import meta
from support.numpy_optim import SlowAdamW, follow, names, some_tree

from mixlm.gin_config.build import configured
from mixlm.gin_config.flags import parse_flags
from mixlm.models.llama import Llama
from mixlm.models.ltg_bert import LTGBert
from mixlm.optim.adamw import AdamW
from mixlm.optim.base import decayed
from mixlm.optim.lamb import LAMB
from mixlm.recipe import Recipe


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_adamw_agrees_with_the_paper(decay):
    slow = {name: SlowAdamW() for name in names()}
    follow(AdamW(weight_decay=decay), slow, {}, decay)


class SlowLAMB(SlowAdamW):
    """You et al. 2020, algorithm 2, one leaf, float64; the releases leave the undecayed leaves to Adam."""

    def __init__(self, most=np.inf, always=False):
        super().__init__()
        self.most, self.always = most, always

    def step(self, grad, param, rate, weight_decay):
        update = param - super().step(grad, param, 1.0, b2=0.98, weight_decay=weight_decay)
        if weight_decay or self.always:
            length, wanted = np.linalg.norm(update), np.linalg.norm(param)
            update = update * (min(wanted / length, self.most) if length and wanted else 1.0)
        return param - rate * update


@pytest.mark.parametrize("arguments", [{}, {"most": 0.4}, {"always": True}])
def test_lamb_agrees_with_the_paper(arguments):
    rule = LAMB(
        weight_decay=0.3,
        max_trust_ratio=arguments.get("most"),
        adapt_undecayed=arguments.get("always", False),
    )
    follow(rule, {name: SlowLAMB(**arguments) for name in names()}, {}, 0.3)


TINY = {"vocab_size": 11, "emb_dim": 8, "num_heads": 2, "head_dim": 4, "mlp_dim": 12, "num_layers": 1}


def shapes_of(module):
    return jax.eval_shape(lambda: meta.unbox(module.init(jax.random.key(0), *module.inputs())["params"]))


def random_tree(shapes, seed: int):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)


def by_name(tree) -> dict:
    return {"/".join(key.key for key in path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def test_the_first_update_of_ltg_bert_is_the_release_s():
    """ltgoslo/ltg-bert, babylm/train: no decay and no trust ratio for bias, layer_norm and embedding."""
    rule = configured(parse_flags(["--gin_file=antlm_ltg_bert.gin"], ""), Recipe).optimizer.rule
    shapes = shapes_of(LTGBert(**TINY))
    params, grads = random_tree(shapes, 0), random_tree(shapes, 1)
    found, _ = rule.transform().update(grads, rule.transform().init(params), params)
    for name, update in by_name(found).items():
        param, grad = by_name(params)[name], by_name(grads)[name]
        expected = grad / (np.abs(grad) + rule.eps)  # Adam's first step
        if not any(word in name for word in ("bias", "layer_norm", "embedding")):
            expected = expected + 0.1 * param
            expected = expected * np.linalg.norm(param) / np.linalg.norm(expected)
        np.testing.assert_allclose(-update, expected, rtol=1e-4, atol=1e-6, err_msg=name)


def test_mile_decays_what_its_release_does():
    """suu990901/LLaMA-MiLe-Loss, utils/trainer.py: all but bias and layernorm.weight, so the last norm decays too."""
    rule = configured(parse_flags(["--gin_file=mile.gin"], ""), Recipe).optimizer.rule
    params = random_tree(shapes_of(Llama(**TINY)), 0)
    still = jax.tree.map(jnp.zeros_like, params)
    found, _ = rule.transform().update(still, rule.transform().init(params), params)
    for name, update in by_name(found).items():
        spared = "layer_norm" in name  # input_layernorm and post_attention_layernorm there; the last is `norm`
        expected = np.zeros_like(update) if spared else -0.1 * by_name(params)[name]
        np.testing.assert_allclose(update, expected, rtol=1e-6, err_msg=name)


def test_lamb_that_adapts_all_leaves_agrees_with_optax():
    ours = LAMB(adapt_undecayed=True).transform()
    theirs = optax.lamb(1.0, b2=0.98, eps=1e-8, weight_decay=0.1, mask=decayed)
    params = some_tree(0) | {"zero": {"kernel": jnp.zeros((3, 4))}}
    states = [ours.init(params), theirs.init(params)]
    for seed in range(3):
        grads = some_tree(seed + 1) | {"zero": {"kernel": jnp.full((3, 4), float(seed != 1))}}
        (found, states[0]), (expected, states[1]) = (
            transform.update(grads, state, params) for transform, state in zip((ours, theirs), states, strict=True)
        )
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7), found, expected)
