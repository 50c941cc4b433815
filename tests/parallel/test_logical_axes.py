"""Logical axes lie where the rules say, activations are pinned where a layout is in force, and shards add up."""

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params
from jax.sharding import NamedSharding, PartitionSpec

from mixlm.errors import UserError
from mixlm.losses.per_device import shards_of
from mixlm.losses.score import score, score_rows
from mixlm.losses.token_losses import CrossEntropy, MiLe
from mixlm.models.layers import Dense, Embed, constrain
from mixlm.parallel.logical_axes import RULES, in_force, laid_out, names_noted, under
from mixlm.parallel.mesh import Partitioning, check_lengths, check_networks, moment_sharding, pinned_gradients


@cache
def layout(data=1, fsdp=1, sequence=1, tensor=1, rules=()):
    return Partitioning(data=data, fsdp=fsdp, sequence=sequence, tensor=tensor, rules=rules).layout()


ALL = {"fsdp": 2, "sequence": 2, "tensor": 2}


@pytest.mark.parametrize(
    ("names", "shape", "spec"),
    [
        (("batch", "length", "embed"), (4, 8, 16), (("data", "fsdp"), "sequence", None)),
        (("batch", "heads", "length", "kv"), (4, 2, 8, 4), (("data", "fsdp"), "tensor", "sequence", None)),
        (("batch", "heads", None, "kv"), (4, 2, 8, 4), (("data", "fsdp"), "tensor", None, None)),
        (("batch", "length", "mlp"), (4, 7, 16), (("data", "fsdp"), None, "tensor")),
        (("batch", "length"), (3, 8), (None, "sequence")),
        (("layers", "embed", "mlp"), (3, 16, 32), (None, "fsdp", "tensor")),
        (("vocab", "mlp"), (16, 16), ("tensor", None)),
        (("unheard of", None), (16, 16), (None, None)),
    ],
)
def test_an_array_lies_as_the_rules_say(names, shape, spec):
    assert layout(**ALL).spec(names, shape) == PartitionSpec(*spec)


def test_a_rule_of_ones_own_comes_first():
    rules = (("vocab", None), ("embed", ("fsdp", "sequence")), ("length", "tensor"), ("length", "sequence"))
    mine = layout(**ALL, rules=rules)
    assert mine.spec(("vocab", "embed"), (16, 16)) == PartitionSpec(None, ("fsdp", "sequence"))
    # Here `embed` takes fsdp before the rows can.
    assert mine.spec(("batch", "length", "embed"), (8, 8, 8)) == PartitionSpec(None, "tensor", ("fsdp", "sequence"))
    assert mine.spec(("length", "mlp"), (16, 16)) == PartitionSpec("tensor", None)
    assert mine.spec(("embed", "mlp"), (16, 16)) == PartitionSpec(("fsdp", "sequence"), "tensor")
    assert [name for name, _ in mine.rules[4:]] == [name for name, _ in RULES if name not in dict(rules)]


def test_what_is_inside_of_a_cut_is_not_cut_again():
    inside = layout(**ALL).without("batch", "length")
    assert inside.spec(("vocab", "embed"), (16, 16)) == PartitionSpec("tensor", None)
    assert inside.spec(("batch", "length", "embed"), (4, 8, 16)) == PartitionSpec(None, None, None)
    assert (inside.parts("batch"), inside.parts("vocab")) == (1, 2)


def test_a_layout_is_in_force_in_a_trace_and_nowhere_else():
    seen = []

    def look(x):
        seen.append(in_force())
        return x

    made = layout(**ALL)
    jax.jit(under(made, look))(jnp.zeros(2))
    assert seen == [made] and in_force() is None
    with laid_out(made), laid_out(None):
        assert in_force() is None


def shardings(jaxpr) -> list[PartitionSpec]:
    """The constraints of a trace, in order."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "sharding_constraint":
            found.append(equation.params["sharding"].spec)
        for inner in jaxprs_in_params(equation.params):
            found += shardings(inner)
    return found


def test_activations_keep_their_rows_and_parameters_are_gathered_for_them():
    dense, x = Dense(8, ("embed", "mlp")), jnp.zeros((4, 6, 16))
    params = dense.init(jax.random.key(0), x)

    def run(params, x):
        return constrain(dense.apply(params, x), "batch", "length", "mlp")

    stored, whole = PartitionSpec("fsdp", "tensor"), PartitionSpec(None, "tensor")
    traced = jax.make_jaxpr(under(layout(fsdp=4, tensor=2), run))(nn.unbox(params), x)
    assert shardings(traced.jaxpr) == [stored, whole, PartitionSpec(("data", "fsdp"), "sequence", "tensor")]
    # The way back adds the gradient up, and cuts it again.
    summed = jax.grad(under(layout(fsdp=4, tensor=2), lambda *given: jnp.sum(run(*given))))
    assert shardings(jax.make_jaxpr(summed)(nn.unbox(params), x).jaxpr)[-2:] == [whole, stored]
    # One device is told nothing.
    one = Partitioning().layout(jax.devices()[:1])
    assert shardings(jax.make_jaxpr(under(one, run))(nn.unbox(params), x).jaxpr) == []


def test_a_table_with_rows_on_every_device_is_read_as_it_is():
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 16, (4, 8)))
    embed = Embed(16, 8)
    params = nn.unbox(embed.init(jax.random.key(0), tokens))
    laid = layout(**ALL)
    placed = jax.device_put(params, laid.sharding(("vocab", "embed"), (16, 8)))

    def loss(params):
        return jnp.sum(jnp.sin(embed.apply(params, tokens)))

    value, gradient = jax.jit(jax.value_and_grad(under(laid, loss)))(placed)
    wanted, wanted_gradient = jax.value_and_grad(loss)(params)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), gradient, wanted_gradient)


def test_names_are_noted_without_a_layout_too():
    with names_noted() as names:
        jax.eval_shape(lambda: constrain(jnp.zeros((2, 3)), "batch", None))
    assert names == {"batch"}


class Plain(nn.Module):
    """A network that says nothing of its axes."""

    def inputs(self):
        return (jnp.zeros((1, 4)),)

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x)


def test_an_axis_that_would_split_nothing_is_refused():
    check_networks(layout(data=2, fsdp=4), {"model": Plain()})
    for axis in ("sequence", "tensor"):
        with pytest.raises(UserError, match=rf"^{axis.upper()}_PARTITIONS = 8 would split nothing .*'model' \(Plain\)"):
            check_networks(layout(**{axis: 8}), {"model": Plain()})
    rules = (("length", None),)
    with pytest.raises(UserError, match=r"SEQUENCE_PARTITIONS = 8 would split nothing .* and no rule names it"):
        check_networks(layout(sequence=8, rules=rules), {"model": Plain()})


def test_lengths_that_no_device_can_share_are_refused():
    check_lengths(layout(sequence=8), {"inputs": 512, "targets": 114})
    check_lengths(layout(fsdp=8), {"inputs": 3})
    with pytest.raises(UserError, match=r"\{'targets': 114\} .* 8 devices \(sequence\).*'targets' that can is 112\."):
        check_lengths(layout(sequence=8), {"targets": 114})


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((16, 32), ("fsdp", "tensor")),
        ((16,), ("fsdp",)),
        ((32,), ("tensor",)),
        ((1,), ()),
        ((), ()),
    ],
)
def test_a_factored_moment_lies_with_the_axes_that_it_has(shape, spec):
    laid = layout(data=2, fsdp=2, tensor=2)
    found = moment_sharding(jnp.zeros(shape), jnp.zeros((16, 32)), laid.sharding(("embed", "mlp"), (16, 32)))
    assert found == NamedSharding(laid.mesh, PartitionSpec(*spec))


# Shards.


MESHES = {"rows": {"data": 2, "fsdp": 4}, "positions": {"sequence": 8}, "all": {"fsdp": 2, "sequence": 2, "tensor": 2}}
WIDTH, VOCABULARY = 8, 20


def drawn(rows: int, length: int):
    draw = np.random.default_rng(rows * 100 + length)
    hidden = draw.normal(size=(rows, length, WIDTH)).astype(np.float32)
    weights = (draw.random((rows, length)) * (draw.random((rows, length)) < 0.8)).astype(np.float32)
    kernel = draw.normal(size=(WIDTH, VOCABULARY)).astype(np.float32)
    targets = draw.integers(0, VOCABULARY, (rows, length)).astype(np.int32)
    return kernel, hidden, targets, weights, draw.random((rows, length)).astype(np.float32)


def chosen(logits, noise):
    return jnp.argmax(logits, axis=-1) + (noise > 0.5).astype(jnp.int32)


def totals(loss, kernel, hidden, targets, weights, noise):
    """All that `score` gives, and the gradients of a multiple of its total."""
    max_logits = 4 * VOCABULARY

    def total(kernel, hidden):
        found = score(lambda block: block @ kernel, hidden, targets, weights, loss, None, chosen, noise, max_logits)
        return 3 * found.total / found.count, vars(found)

    return jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(kernel, hidden)


def row_totals(loss, kernel, hidden, targets, weights, noise):
    """All that `score_rows` gives, and the gradients where each row has a factor of its own."""
    max_logits = 4 * VOCABULARY

    def total(kernel, hidden):
        counted = (weights > 0).astype(jnp.float32)
        found = score_rows(lambda block: block @ kernel, hidden, targets, weights, loss, counted, max_logits=max_logits)
        return jnp.sum(found.total * jnp.arange(1.0, 1 + len(hidden))), vars(found)

    return jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(kernel, hidden)


@pytest.mark.parametrize("what", [totals, row_totals])
@pytest.mark.parametrize("loss", [CrossEntropy(z_loss=0.1), MiLe(2.0)])
@pytest.mark.parametrize("mesh", MESHES)
def test_scores_of_shards_are_those_of_the_whole(mesh, loss, what):
    given = drawn(8, 48)
    found = jax.jit(under(layout(**MESHES[mesh]), partial(what, loss)))(*given)
    wanted = jax.jit(partial(what, loss))(*given)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-5), found, wanted)


def in_loops(text: str) -> list[str]:
    """The lines of a compiled program's loops in which devices talk."""
    bodies = set(re.findall(r"body=%?([\w.-]+)", text))
    blocks = [block for block in text.split("\n\n") if block.lstrip("%\n").split(" ")[0] in bodies]
    assert len(blocks) == len(bodies) > 0
    return [line for block in blocks for line in block.splitlines() if re.search(r"all-(reduce|gather|to-all)", line)]


@pytest.mark.parametrize("what", [totals, row_totals])
@pytest.mark.parametrize("mesh", ["rows", "positions"])
def test_devices_talk_once_and_not_for_every_block(mesh, what):
    laid = layout(**MESHES[mesh])
    rows = NamedSharding(laid.mesh, PartitionSpec(laid.axes_of("batch"), laid.axes_of("length")))
    kernel, hidden, *columns = drawn(8, 96)
    given = (kernel, *(jax.device_put(x, rows) for x in (hidden, *columns)))
    text = jax.jit(under(laid, partial(what, CrossEntropy()))).lower(*given).compile().as_text()
    assert "all-reduce" in text and "body=" in text
    assert in_loops(text) == []


def test_the_gradient_of_the_head_is_kept_added_up():
    """Kept for each part, it would be there twice on its device where it is then multiplied."""
    kernel, hidden, targets, weights, _ = map(jnp.asarray, drawn(8, 48))

    def total(kernel, hidden):
        return score(
            lambda block: block @ kernel, hidden, targets, weights, CrossEntropy(), max_logits=4 * VOCABULARY
        ).total

    def pulled(*given):
        return jax.vjp(total, *given)[1]

    with laid_out(layout(**MESHES["rows"])):
        kept = [x.shape for x in jax.tree.leaves(jax.eval_shape(pulled, kernel, hidden))]
    assert kernel.shape in kept and not [shape for shape in kept if len(shape) > 2 and shape[-2:] == kernel.shape]


@pytest.mark.parametrize("what", [totals, row_totals])
def test_no_device_has_scores_of_the_whole_vocabulary(what):
    laid = layout(data=2, tensor=4)
    rows, columns = (NamedSharding(laid.mesh, PartitionSpec(*spec)) for spec in (("data",), (None, "tensor")))
    kernel, *rest = drawn(8, 96)
    given = (jax.device_put(kernel, columns), *(jax.device_put(x, rows) for x in rest))
    text = jax.jit(under(laid, partial(what, CrossEntropy()))).lower(*given).compile().as_text()
    assert f",{VOCABULARY // 4}]" in text and f",{VOCABULARY}]" not in text


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_shards_are_cut_and_put_together_again(rows, positions, per_row, per_position):
    mine = shards_like(rows, positions)
    x = np.arange(rows * per_row * positions * per_position).reshape(rows * per_row, positions * per_position)
    parts = mine._cut(jnp.asarray(x))
    assert parts.shape == (rows * positions, per_row, per_position)
    np.testing.assert_array_equal(mine.whole(parts), x)
    np.testing.assert_array_equal(mine.row_sums(jnp.sum(parts, axis=2)), x.sum(axis=1))


def shards_like(rows, positions):
    from mixlm.losses.per_device import Shards

    return Shards(layout(data=8), rows, positions)


def test_what_devices_cannot_share_is_not_cut():
    assert shards_of(8, 8) is None
    with laid_out(layout(fsdp=4, sequence=2)):
        assert (shards_of(8, 8).rows, shards_of(8, 8).positions) == (4, 2)
        assert (shards_of(8, 7).rows, shards_of(8, 7).positions) == (4, 1)
        assert (shards_of(3, 8).rows, shards_of(3, 8).positions) == (1, 2)
        assert shards_of(3, 7) is None
    with laid_out(layout(tensor=8)):
        assert shards_of(8, 8) is None


class Boxed(nn.Module):
    """A network of one matrix with logical axes."""

    def inputs(self):
        return (jnp.zeros((1, 16)),)

    @nn.compact
    def __call__(self, x):
        return Dense(8, ("embed", "mlp"), name="dense")(x)


def test_gradients_are_cut_as_their_parameters_are():
    gradients = {"model": {"dense": {"kernel": jnp.ones((16, 8))}}}
    pin = partial(pinned_gradients, {"model": Boxed()})
    pinned = jax.make_jaxpr(under(layout(fsdp=4, tensor=2), pin))(gradients)
    assert shardings(pinned.jaxpr) == [PartitionSpec("fsdp", "tensor")]
    assert shardings(jax.make_jaxpr(pin)(gradients).jaxpr) == []
