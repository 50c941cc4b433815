"""A kernel that differs from plain attention on its device is seen, said, and left out; the CPU interprets kernels."""

import jax
import jax.numpy as jnp
import pytest

from mixlm.errors import UserError
from mixlm.models.attention import dispatch, tpu_splash
from mixlm.models.attention.dispatch import RUNS, AdditiveView, SplashView, VmemView, make_biased_view, make_view
from mixlm.models.attention.dot_product import attend, mask_bias
from mixlm.models.attention.masks import self_mask
from mixlm.models.attention.proof import Kernel, compared
from mixlm.models.attention.tpu_splash import block_of
from mixlm.models.layers import LayerSizes
from mixlm.perf import kernel_proofs

SIZES = LayerSizes(emb_dim=8, num_heads=2, head_dim=8, mlp_dim=8)
REACH = self_mask(jnp.ones((2, 20), jnp.int32), jnp.ones((2, 20), jnp.int32))
SPLASH = Kernel("splash", "float32", 2, 8, 20, 20, False)


def plain(q, k, v, mask, bias):
    return attend(q, k, v, (mask_bias(mask.dense()), *(() if bias is None else (bias,))), 1.0, True)


def forward_alone(q, k, v, mask, bias):
    """Right forward, with the gradient for keys doubled."""
    return plain(q, 2 * k - jax.lax.stop_gradient(k), v, mask, bias)


@pytest.fixture
def on_tpu(monkeypatch):
    """Attention is chosen as on a TPU that nothing was proven on; kernels are interpreted."""
    monkeypatch.setattr(dispatch, "platform", lambda: "tpu")
    monkeypatch.setattr(dispatch, "device_kind", lambda: "TPU v5 lite")
    kernel_proofs.forget()
    said = []
    with kernel_proofs.told(said.append):
        yield said
    kernel_proofs.forget()


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(20, 20), (20, 150), (300, 300)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_splash_kernel_is_right(sizes, dtype):
    kernel = SPLASH._replace(dtype=dtype, queries=sizes[0], keys=sizes[1])
    assert compared(kernel, RUNS["splash"]) == ""


def test_a_wrong_mask_in_the_splash_kernel_is_seen(monkeypatch):
    monkeypatch.setattr(tpu_splash, "up_to", lambda limits, keys: keys < limits + (limits == 0))
    assert compared(SPLASH, RUNS["splash"]).startswith("differs: its ")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("queries", [12, 20])
def test_the_resident_kernel_is_right_with_a_bias(queries, dtype):
    assert compared(Kernel("resident", dtype, 2, 64, queries, 20, True), RUNS["resident"]) == ""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (lambda *x: 1.05 * plain(*x), ""),
        (forward_alone, "gradient for keys"),
        (lambda q, k, v, mask, bias: plain(q, k, v, mask, 1.3 * bias), "gradient for the bias"),
        (lambda *x: plain(*x) * jnp.nan, ""),
    ],
    ids=["scale", "keys", "bias", "nan"],
)
def test_what_differs_is_named(wrong, named, dtype):
    kernel = Kernel("resident", dtype, 2, 8, 12, 12, True)
    assert compared(kernel, plain) == ""
    assert f"differs: its {named}" in compared(kernel, wrong)


def test_auto_leaves_a_wrong_kernel_out_and_says_so_once(on_tpu, monkeypatch):
    monkeypatch.setitem(RUNS, "splash", forward_alone)
    views = []
    for _ in range(2):  # It is asked for while something is traced.
        jax.eval_shape(lambda: views.append(make_view(SIZES, REACH, "auto")))
    assert all(isinstance(view, AdditiveView) and view.keep for view in views)
    (line,) = on_tpu
    assert line.startswith(
        "splash attention, float32, mask, 100 x 100 positions, 2 heads of 8 differs: its gradient for"
    )
    assert "off in norm" in line and line.endswith("and ATTENTION = 'splash' would make this an error.")
    with pytest.raises(UserError, match=r"^ATTENTION = 'splash': splash attention, .* differs: .*; leave it 'auto'"):
        make_view(SIZES, REACH, "splash")
    monkeypatch.setitem(RUNS, "resident", forward_alone)
    biased = make_biased_view(SIZES, REACH, jnp.zeros((1, 2, 20, 20)), "auto")
    assert isinstance(biased, AdditiveView) and not biased.keep and len(on_tpu) == 2


def test_a_kernel_that_does_not_run_differs_and_one_that_is_right_is_taken(on_tpu, monkeypatch):
    def refused(*_):
        raise NotImplementedError("no such heads\nmore")

    monkeypatch.setitem(RUNS, "splash", refused)
    monkeypatch.setitem(RUNS, "resident", plain)
    assert isinstance(make_view(SIZES, REACH, "auto"), AdditiveView)
    assert "does not run (NotImplementedError: no such heads) on " in on_tpu[0]
    assert isinstance(make_biased_view(SIZES, REACH, None, "auto"), VmemView) and len(on_tpu) == 1
    kernel_proofs.forget()
    monkeypatch.setitem(RUNS, "splash", plain)
    assert isinstance(make_view(SIZES, REACH, "auto"), SplashView) and len(on_tpu) == 1


def test_an_example_stands_for_the_lengths_whose_blocks_are_alike():
    lengths = (2, 20, 127, 128, 129, 512, 1000, 1024, 2048, 4096, 4100, 1536 + 128)
    cut = [SPLASH._replace(queries=length).cut().queries for length in lengths]
    assert cut == [100, 100, 99, 128, 227, 512, 996, 1024, 1024, 1024, 1124, 1152]
    whole = [length for length in range(1, 6000) if length % 128 == 0]
    assert all(block_of(length) == block_of(SPLASH._replace(keys=length).cut().keys) for length in whole)
    assert len({SPLASH._replace(keys=length).cut().keys for length in range(1, 6000)}) == 3 * 11


def test_one_key_needs_no_kernel(on_tpu, monkeypatch):
    """Parameters are initialised with one position, which is compared with nothing."""
    monkeypatch.setattr(dispatch, "how_it_differs", lambda *_: pytest.fail("compared"))
    one = self_mask(jnp.ones((2, 1), jnp.int32), jnp.ones((2, 1), jnp.int32))
    assert isinstance(make_view(SIZES, one, "auto"), AdditiveView) and on_tpu == []


def test_nothing_is_compared_on_a_cpu(monkeypatch):
    monkeypatch.setattr(dispatch, "how_it_differs", lambda *_: pytest.fail("compared"))
    assert isinstance(make_view(SIZES, REACH, "splash"), SplashView)
    assert isinstance(make_view(SIZES, REACH, "auto"), AdditiveView)
