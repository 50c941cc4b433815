import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest

from mixlm.errors import UserError
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.optim.adafactor import Adafactor
from mixlm.optim.adamw import AdamW
from mixlm.optim.base import decayed, global_norm
from mixlm.optim.lamb import LAMB
from mixlm.optim.muon import Muon, orthogonalised
from mixlm.optim.optimizer import Optimizer
from mixlm.parallel.mesh import Partitioning
from mixlm.schedules import Constant, Linear, RsqrtDecay
from mixlm.training.step import initial_state

SHAPES = {"wide": (6, 9), "tall": (9, 6), "cube": (3, 6, 8), "small": (3, 20), "vector": (7,), "scale": (5, 6)}


def some_tree(seed: int, scale: float = 1.0) -> dict:
    rng = np.random.default_rng(seed)
    tree = {name: {"kernel": scale * rng.normal(size=shape)} for name, shape in SHAPES.items() if name != "scale"}
    tree["norm"] = {"scale": scale * rng.normal(size=SHAPES["scale"])}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2)))


class SlowAdafactor:
    """Shazeer & Stern 2018, algorithm 4 (factored) and 5 (not), one leaf, float64."""

    def __init__(self, shape, factor_from: int):
        large = [axis for axis in np.argsort(shape)[-2:]] if len(shape) > 1 else []
        self.axes = large if large and min(shape[axis] for axis in large) >= factor_from else None
        self.row = self.column = self.full = 0.0
        self.t = 0

    def step(self, grad, param, rate, decay_rate=0.8, threshold=1.0, scaled=True, weight_decay=0.0):
        self.t += 1
        beta = 1.0 - self.t ** (-decay_rate)
        square = grad.astype(np.float64) ** 2 + 1e-30
        if self.axes is None:
            self.full = beta * self.full + (1 - beta) * square
            second = self.full
        else:
            first, last = self.axes
            self.row = beta * self.row + (1 - beta) * square.sum(axis=last, keepdims=True)
            self.column = beta * self.column + (1 - beta) * square.sum(axis=first, keepdims=True)
            second = self.row * self.column / self.row.sum(axis=first, keepdims=True)
        update = grad / np.sqrt(second)
        if threshold is not None:
            update = update / max(1.0, rms(update) / threshold)
        if scaled:
            update = update * max(1e-3, rms(param))
        return param - rate * (update + weight_decay * param)


class SlowAdamW:
    """Loshchilov & Hutter 2019, algorithm 2, one leaf, float64."""

    def __init__(self):
        self.m = self.v = 0.0
        self.t = 0

    def step(self, grad, param, rate, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1):
        self.t += 1
        self.m = b1 * self.m + (1 - b1) * grad.astype(np.float64)
        self.v = b2 * self.v + (1 - b2) * grad.astype(np.float64) ** 2
        m_hat, v_hat = self.m / (1 - b1**self.t), self.v / (1 - b2**self.t)
        return param - rate * (m_hat / (np.sqrt(v_hat) + eps) + weight_decay * param)


def follow(rule, slow: dict, arguments: dict, decay: float) -> None:
    """Four steps of `rule` against the slow leaves, which decay where a leaf is a matrix called kernel."""
    optimizer = Optimizer(rule, Linear(0.1, 0.02, 4), clip_norm=None)
    params = {"model": some_tree(0)}
    state = optimizer.init(params)
    expected = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(params)}
    update = jax.jit(optimizer.update)
    for step in range(4):
        grads = {"model": some_tree(step + 1, scale=3.0)}
        params, state, stats = update(grads, state, params, jnp.int32(step))
        rate = 0.1 + (0.02 - 0.1) * step / 4
        np.testing.assert_allclose(stats["learning_rate"], rate, rtol=1e-6)
        for path, grad in jax.tree.leaves_with_path(grads):
            name = jax.tree_util.keystr(path)
            matrix = grad.ndim > 1 and "scale" not in name
            expected[name] = slow[name].step(
                np.asarray(grad), expected[name], rate, weight_decay=decay if matrix else 0.0, **arguments
            )
        for path, leaf in jax.tree.leaves_with_path(params):
            np.testing.assert_allclose(leaf, expected[jax.tree_util.keystr(path)], rtol=2e-4, atol=2e-6)


def names() -> dict[str, tuple[int, ...]]:
    leaves = jax.tree.leaves_with_path({"model": some_tree(0)})
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}


@pytest.mark.parametrize("factor_from", [5, 128])
@pytest.mark.parametrize(
    ("arguments", "decay"),
    [
        ({}, 0.0),
        ({"threshold": None, "scaled": False}, 0.0),
        ({"decay_rate": 0.6, "threshold": 2.0}, 0.1),
    ],
)
def test_adafactor_agrees_with_the_paper(factor_from, arguments, decay):
    rule = Adafactor(
        decay_rate=arguments.get("decay_rate", 0.8),
        clipping_threshold=arguments.get("threshold", 1.0),
        multiply_by_parameter_scale=arguments.get("scaled", True),
        min_dim_size_to_factor=factor_from,
        weight_decay=decay,
    )
    slow = {name: SlowAdafactor(shape, factor_from) for name, shape in names().items()}
    assert any(leaf.axes for leaf in slow.values()) == (factor_from == 5)
    assert any(leaf.axes is None for leaf in slow.values())
    follow(rule, slow, arguments, decay)


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


# A leaf of each kind, and whether Muon turns it into an orthogonal matrix.
KINDS = {
    "model/layer_0/query/kernel": ((6, 9), True),
    "model/layer_0/wo/kernel": ((9, 6), True),
    "model/layers/wi/kernel": ((3, 6, 8), True),
    "model/head/dense/kernel": ((7, 7), True),
    "model/token_embedder/embedding": ((20, 6), False),
    "model/relpos_bias/rel_embedding": ((4, 8), False),
    "model/logits_dense/kernel": ((6, 20), False),
    "model/layers/norm/scale": ((3, 6), False),
    "model/layers/wi/bias": ((3, 8), False),
    "model/norm/scale": ((6,), False),
    "model/judge/kernel": ((7, 1), False),
}


def kinds(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, (shape, _) in KINDS.items()}


def tree(leaves: dict) -> dict:
    """Nested as flax does it."""
    found: dict = {}
    for name, leaf in leaves.items():
        *folders, last = name.split("/")
        place = found
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = leaf
    return found


def slow_orthogonalised(matrix: np.ndarray, steps: int) -> np.ndarray:
    """Through the singular values, on which the quintic acts one by one."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / (np.linalg.norm(values) + 1e-7)
    for _ in range(steps):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left @ np.diag(values) @ right


class SlowMuon(SlowAdamW):
    """The Dual paper's release, one leaf, float64."""

    def __init__(self, matrix: bool, nesterov: bool, steps: int):
        super().__init__()
        self.matrix, self.nesterov, self.steps = matrix, nesterov, steps
        self.momentum = 0.0

    def step(self, grad, param, rate, weight_decay):
        grad = np.asarray(grad, np.float64)
        if not self.matrix:
            return super().step(grad, param, rate, weight_decay=weight_decay)
        self.momentum = 0.95 * self.momentum + grad
        ahead = grad + 0.95 * self.momentum if self.nesterov else self.momentum
        layers = ahead if ahead.ndim == 3 else ahead[None]
        update = np.reshape([slow_orthogonalised(layer, self.steps) for layer in layers], grad.shape)
        scale = 0.2 * np.sqrt(max(grad.shape[-2:]))
        return (1 - rate * weight_decay) * param - rate * scale * update


@pytest.mark.parametrize(("nesterov", "steps", "vectors"), [(True, 5, True), (False, 3, False)])
def test_muon_agrees_with_the_release(nesterov, steps, vectors):
    rule = Muon(nesterov=nesterov, ns_steps=steps, weight_decay=0.3, decay_vectors=vectors)
    optimizer = Optimizer(rule, Linear(0.1, 0.02, 4), clip_norm=None)
    expected = {name: np.asarray(leaf, np.float64) for name, leaf in kinds(0).items()}
    slow = {name: SlowMuon(matrix, nesterov, steps) for name, (_, matrix) in KINDS.items()}
    params = tree(kinds(0))
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for step in range(4):
        params, state, _ = update(tree(kinds(step + 1)), state, params, jnp.int32(step))
        for name, grad in kinds(step + 1).items():
            is_vector = grad.ndim == 1 or name.endswith(("scale", "bias"))
            decay = 0.3 if vectors or not is_vector else 0.0
            expected[name] = slow[name].step(grad, expected[name], 0.1 - 0.02 * step, decay)
        jax.tree.map(
            lambda found, want: np.testing.assert_allclose(found, want, rtol=2e-4, atol=2e-5), params, tree(expected)
        )


def test_the_first_direction_of_a_matrix_agrees_with_optax():
    theirs = optax.contrib.muon(1.0, consistent_rms=0.2)
    for shape in ((6, 9), (9, 6), (8, 8)):
        params = {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)}
        found, _ = Muon(weight_decay=0.0).transform().update(params, Muon().transform().init(params), params)
        expected, _ = theirs.update(params, theirs.init(params), params)
        np.testing.assert_allclose(found["kernel"], expected["kernel"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_newton_schulz_brings_the_singular_values_near_one(dtype, scale):
    matrix = scale * np.random.default_rng(1).normal(size=(3, 24, 40))
    found = orthogonalised(jnp.asarray(matrix, jnp.float32), dtype=dtype)
    assert found.dtype == jnp.float32
    values = np.linalg.svd(np.asarray(found), compute_uv=False)
    assert values.min() > 0.6 and values.max() < 1.3
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    cosine = np.sum(np.asarray(found) * (left @ right)) / np.linalg.norm(found) / np.linalg.norm(left @ right)
    assert cosine > 0.98
    assert not np.any(orthogonalised(jnp.zeros((4, 3)), dtype=dtype))


def test_an_excluded_name_goes_to_adam():
    params = {"mlp": {"kernel": jnp.eye(3)}, "out": {"kernel": jnp.eye(3)}}
    sizes = jax.tree.map(jnp.size, Muon(excluded=("mlp",)).transform().init(params)[0].second)
    assert sizes == {"mlp": {"kernel": 9}, "out": {"kernel": 1}}


@pytest.mark.parametrize("rule", [Muon(), Muon(decay_vectors=False), LAMB()])
def test_moments_are_sharded_as_parameters(rule):
    network = DecoderOnly(vocab_size=64, emb_dim=16, num_heads=4, head_dim=8, mlp_dim=32, num_layers=1)
    mesh = Partitioning(data=2, fsdp=2, tensor=2).mesh()
    create, shapes = initial_state({"model": network}, Optimizer(rule, Constant(0.1)), 0, mesh)
    state = create()
    placed = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(state.params["model"])}
    cut = 0
    for path, leaf in jax.tree.leaves_with_path(state.opt_state["model"]):
        owners = [param for name, param in placed.items() if jax.tree_util.keystr(path).endswith(name)]
        if owners and owners[0].shape == leaf.shape:
            assert leaf.sharding == owners[0].sharding
            cut += not leaf.sharding.is_fully_replicated
        else:
            assert leaf.sharding.is_fully_replicated and leaf.size <= 1
    assert cut >= len(placed) // 2
    jax.tree.map(lambda leaf, want: leaf.sharding == want.sharding or pytest.fail(str(want)), state, shapes)


def test_a_factored_state_is_small():
    state = Adafactor(min_dim_size_to_factor=128).transform().init({"kernel": jnp.zeros((256, 512))})
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) < 256 + 512 + 10


@pytest.mark.parametrize("rule", [Adafactor(), Adafactor(weight_decay=0.1, clipping_threshold=None)])
def test_adafactor_and_its_state_agree_with_optax(rule):
    params = {"kernel": jnp.linspace(-1, 1, 256 * 512).reshape(256, 512), "bias": jnp.linspace(1e-5, 1e-4, 7)}
    grads = jax.tree.map(lambda x: jnp.cos(7 * x), params)
    library = optax.adafactor(
        None,
        clipping_threshold=rule.clipping_threshold,
        weight_decay_rate=rule.weight_decay or None,
        weight_decay_mask=decayed,
    )
    (wanted, state), (found, ours) = (
        each.update(grads, each.init(params), params) for each in (library, rule.transform())
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), (found, ours), (wanted, state))


def test_vectors_and_stacked_norm_scales_do_not_decay():
    tree = {
        "layers": {
            "norm": {"scale": jnp.ones((12, 64))},
            "mlp": {"kernel": jnp.ones((12, 64, 256)), "bias": jnp.ones((12, 256))},
        },
        "final": {"kernel": jnp.ones(3), "embedding": jnp.ones((10, 4))},
    }
    assert decayed(tree) == {
        "layers": {"norm": {"scale": False}, "mlp": {"kernel": True, "bias": False}},
        "final": {"kernel": False, "embedding": True},
    }
    assert decayed(tree, ("embedding",))["final"] == {"kernel": False, "embedding": False}


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_clipping_bounds_the_norm_and_keeps_the_direction(scale):
    class Plain:
        def transform(self):
            return optax.scale(-1.0)

    params = {"model": some_tree(0), "generator": some_tree(1)}
    grads = {"model": some_tree(2, scale), "generator": some_tree(3, scale)}
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(grads)]).astype(np.float64)
    norm = np.linalg.norm(flat)
    optimizer = Optimizer(Plain(), Constant(1.0), clip_norm=2.0)
    new, _, stats = optimizer.update(grads, optimizer.init(params), params, 0)
    np.testing.assert_allclose(stats["grad_norm"], norm, rtol=1e-5)
    moved = jax.tree.map(lambda before, after: before - after, params, new)
    moved = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(moved)])
    np.testing.assert_allclose(moved, flat * min(1.0, 2.0 / norm), atol=1e-5)


def test_the_global_norm_of_zeros_and_of_nothing():
    assert global_norm({"a": jnp.zeros((3, 2))}) == 0.0
    assert global_norm({}) == 0.0
    optimizer = Optimizer(AdamW(weight_decay=0.0), Constant(1.0))
    params = {"model": {"kernel": jnp.ones((2, 2))}}
    new, _, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params, 0)
    np.testing.assert_array_equal(new["model"]["kernel"], 1.0)


@pytest.mark.parametrize("rule", [Adafactor(), AdamW(), Muon(), LAMB()])
def test_a_network_without_gradients_is_left_alone(rule):
    optimizer = Optimizer(rule, RsqrtDecay(1.0, 10))
    params = {"model": some_tree(0), "generator": some_tree(1)}
    state = optimizer.init(params)
    assert set(state) == set(params)
    # A first step on both, so that the idle state is not all zeros.
    params, state, _ = optimizer.update({"model": some_tree(2), "generator": some_tree(3)}, state, params, 0)
    new_params, new_state, _ = jax.jit(optimizer.update)({"model": some_tree(4)}, state, params, jnp.int32(1))
    for before, after in ((params, new_params), (state, new_state)):
        assert jax.tree.structure(before) == jax.tree.structure(after)
        jax.tree.map(np.testing.assert_array_equal, before["generator"], after["generator"])
        assert not all(
            np.array_equal(left, right)
            for left, right in zip(jax.tree.leaves(before["model"]), jax.tree.leaves(after["model"]), strict=True)
        )


def test_the_learning_rate_depends_on_the_step_alone():
    optimizer = Optimizer(AdamW(weight_decay=0.0), Linear(0.0, 1.0, 100), clip_norm=None)
    params, grads = {"model": {"kernel": jnp.zeros((1, 1))}}, {"model": {"kernel": jnp.ones((1, 1))}}
    state = optimizer.init(params)
    for step in (70, 70, 20):
        new, state, stats = optimizer.update(grads, state, params, step)
        # Adam's direction is 1 for a constant gradient.
        np.testing.assert_allclose(new["model"]["kernel"], -step / 100, rtol=1e-5)
        np.testing.assert_allclose(stats["learning_rate"], step / 100, rtol=1e-6)


def test_an_optimizer_is_static_under_jit():
    assert hash(Optimizer(Adafactor(), RsqrtDecay())) == hash(Optimizer(Adafactor(), RsqrtDecay()))
    assert Optimizer(AdamW(), Constant(1.0)) != Optimizer(AdamW(b2=0.99), Constant(1.0))
    assert hash(AdamW(undecayed=("bias",))) == hash(AdamW(undecayed=("bias",)))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: AdamW(b1=1.0), "AdamW.b1 = 1 never takes in"),
        (lambda: AdamW(b2=-0.1), "AdamW.b2 = -0.1 must be between 0 and 1."),
        (lambda: AdamW(weight_decay=-1.0), "AdamW.weight_decay = -1.0 must be at least 0."),
        (lambda: Muon(momentum=1.0), "Muon.momentum = 1 never takes in"),
        (lambda: Muon(ns_steps=0), "Muon.ns_steps = 0 must be at least 1."),
        (lambda: Muon(ns_dtype="bfloat"), "must be 'float32' or 'bfloat16'. Did you mean 'bfloat16'?"),
        (lambda: LAMB(b2=1.0), "LAMB.b2 = 1 never takes in"),
        (lambda: LAMB(max_trust_ratio=-1.0), "LAMB.max_trust_ratio = -1.0 must be at least 0."),
        (lambda: Adafactor(decay_rate=2.0), "Adafactor.decay_rate = 2.0 must be between 0 and 1."),
        (lambda: Adafactor(clipping_threshold=0.5), "Adafactor.clipping_threshold = 0.5 must be at least 1."),
        (lambda: Optimizer(AdamW(), Constant(1.0), clip_norm=0.0), "None switches clipping off"),
        (lambda: Optimizer(AdamW(), Constant(1.0), clip_norm=-1.0), "Optimizer.clip_norm = -1.0 must be at least 0."),
    ],
)
def test_a_bad_value_gets_one_sentence(build, words):
    with pytest.raises(UserError, match=r"^[^\n]*[.?]$") as error:
        build()
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Optimizer(AdamW(), 0.01), "a constant one is written Constant(0.01)"),
        (lambda: Optimizer("adam", Constant(1.0)), "'adam' is no update rule"),
        (lambda: AdamW(b1="0.9"), "AdamW.b1 = '0.9' must be a finite number."),
        (lambda: Constant(True), "Constant.value = True must be a finite number."),
        (lambda: Linear(0.0, 1.0, 2.5), "Linear.steps = 2.5 must be a whole number of steps."),
    ],
)
def test_a_value_of_the_wrong_type_gets_one_sentence(build, words, monkeypatch):
    # As users run it: without the type checks that the tests switch on.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UserError, match=r"^[^\n]*[.]$") as error:
        build()
    assert words in str(error.value)


def test_gradients_of_an_unknown_network_name_the_nearest():
    optimizer = Optimizer(AdamW(), Constant(1.0))
    params = {"generator": {"kernel": jnp.ones((2, 2))}}
    with pytest.raises(UserError, match=r"'genrator'.*Did you mean 'generator'"):
        optimizer.update({"genrator": params["generator"]}, optimizer.init(params), params, 0)
