"""A language of fifty tokens whose entropies are known exactly is learned to them by every recipe's objectives.

A text is independent pairs (a, b): a is one of 25 tokens of unequal frequency, b its partner among 25 others with
probability 0.8 and else uniform over those.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import meta

from mixlm.losses.terms import weighted_sum
from mixlm.losses.token_losses import Focal, MiLe
from mixlm.models.heads import TokenHead
from mixlm.models.t5 import EncoderDecoder
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.network import bind
from mixlm.objectives.causal import Causal
from mixlm.objectives.masked_diffusion import MaskedDiffusion
from mixlm.objectives.masked_lm import MaskedLM
from mixlm.objectives.mixing import PerExample
from mixlm.objectives.spactor import SpacTor
from mixlm.objectives.span_corruption import SpanCorruption
from mixlm.objectives.unrolled_diffusion import UnrolledDiffusion
from mixlm.rng import row_keys
from mixlm.tokens import TokenIds

FIRST, KINDS, FAITHFUL, ROWS = 5, 25, 0.8, 64
TOKENS = TokenIds(FIRST + 2 * KINDS + 5, mask=3, bos=4, sentinels=5)
SIZES = {"vocab_size": TOKENS.vocab_size, "emb_dim": 32, "num_heads": 4, "head_dim": 8, "mlp_dim": 64}

PRIOR = 1 / np.arange(3, 3 + KINDS)
PRIOR /= PRIOR.sum()
CHANNEL = FAITHFUL * np.eye(KINDS) + (1 - FAITHFUL) / KINDS
JOINT = PRIOR[:, None] * CHANNEL


def entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-np.sum(p * np.log(p)))


A, B = entropy(PRIOR), entropy(JOINT.sum(0))
B_OF_A, A_OF_B = entropy(JOINT) - A, entropy(JOINT) - B


def drawn(key, length: int, rows: int = ROWS):
    """Rows of pairs, on the device."""
    a_key, b_key, noise_key = jax.random.split(key, 3)
    shape = (rows, length // 2)
    a = jax.random.categorical(a_key, jnp.log(jnp.asarray(PRIOR, jnp.float32)), shape=shape)
    b = jnp.where(jax.random.uniform(noise_key, shape) < FAITHFUL, a, jax.random.randint(b_key, shape, 0, KINDS))
    return {"tokens": jnp.stack([FIRST + a, FIRST + KINDS + b], axis=-1).reshape(rows, length).astype(jnp.int32)}


def networks(names):
    decoder = DecoderOnly(**SIZES, num_layers=1)
    if "rtd_head" not in names:
        return {name: decoder for name in names}
    model = EncoderDecoder(**SIZES, num_encoder_layers=1, num_decoder_layers=1)
    return {"model": model, "generator": decoder, "rtd_head": TokenHead(SIZES["emb_dim"])}


def learned(*stages, length: int = 4, rate: float = 1e-2) -> list[dict[str, float]]:
    """Trains by Adam on text that is never the same, stage after stage of (objective, steps).

    Returns the terms of each stage over the last fifth of its steps, where the learning rate is small.
    """
    modules = networks(stages[0][0].networks)
    params, found = initial(modules), []
    for objective, steps in stages:
        optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps, 0.01), b2=0.98)
        params = {name: params[name] for name in objective.networks}

        def descend(carry, step, optimizer=optimizer, objective=objective):
            params, state = carry
            batch = drawn(jax.random.fold_in(jax.random.key(2), step), length)

            def loss(params):
                terms = objective(bind(modules, params), batch, row_keys(1, step, ROWS), step)
                return weighted_sum(terms), terms

            gradients, terms = jax.grad(loss, has_aux=True)(params)
            updates, state = optimizer.update(gradients, state, params)
            sums = {name: (term.total, term.count) for name, term in terms.items()}
            return (optax.apply_updates(params, updates), state), sums

        run = jax.jit(
            lambda params, f=descend, o=optimizer, n=steps: jax.lax.scan(f, (params, o.init(params)), jnp.arange(n))
        )
        (params, _), sums = run(params)
        last = {
            name: (np.sum(total[-steps // 5 :]), np.sum(count[-steps // 5 :])) for name, (total, count) in sums.items()
        }
        found.append({name: float(total / count) for name, (total, count) in last.items()})
    return found


def initial(modules):
    """The parameters, drawn in one go: to compile is most of the time here."""

    def create(key):
        return {name: module.init(key, *module.inputs())["params"] for name, module in modules.items()}

    return meta.unbox(jax.jit(create)(jax.random.key(0)))


def assert_learned(found: float, known: float, above: float = 0.03):
    """The cost is the known one, to within a few percent above and the noise of the last steps' text below."""
    assert known * 0.985 < found < known * (1 + above), (found, known)


def test_the_language_has_the_entropies_that_it_says():
    tokens = np.asarray(drawn(jax.random.key(0), 2, 50000)["tokens"]) - [FIRST, FIRST + KINDS]
    joint = np.zeros((KINDS, KINDS))
    np.add.at(joint, tuple(tokens.T), 1 / len(tokens))
    np.testing.assert_allclose(
        [entropy(joint), entropy(joint.sum(1)), entropy(joint.sum(0))], [A + B_OF_A, A, B], rtol=0.01
    )


def diffusion_cost(length: int) -> float:
    """The bound of masked diffusion: a token's partner is hidden too with probability (k - 1) / (T - 1)."""
    chances = np.full(length, 1 / length)  # of k = 1..T masks
    chances[[0, -1]] = 1.5 / length, 0.5 / length
    hidden = np.sum(chances * np.arange(length)) / (length - 1)
    pair = hidden * (A + B) + (1 - hidden) * (A_OF_B + B_OF_A)
    # Shifted inputs never show the last token to its partner.
    return (length / 2 * pair + (1 - hidden) * (A - A_OF_B)) / length


@pytest.mark.slow
def test_dual_learns_both_of_its_entropies_with_one_network():
    mix = PerExample((Causal(TOKENS), MaskedDiffusion(TOKENS, stratified=True)), (0.5,))
    (found,) = learned((mix, 1200))
    assert_learned(found["causal"], (A + B_OF_A) / 2)
    assert_learned(found["masked_diffusion"], diffusion_cost(4))


@pytest.mark.slow
def test_antlm_learns_the_entropy_of_each_stage():
    # Two tokens of four: the partner of one is the other in a third of the rows.
    masked = MaskedLM(TOKENS, mask_rate=0.5, keep=0.0, random=0.0)
    first, second = learned((Causal(TOKENS), 400), (masked, 800))
    assert_learned(first["causal"], (A + B_OF_A) / 2)
    assert_learned(second["masked_lm"], ((A + B) / 3 + (A_OF_B + B_OF_A) * 2 / 3) / 2)


@pytest.mark.slow
def test_mile_learns_the_entropy_too():
    # Its scale depends on the context alone, so that the best prediction is the true one.
    (found,) = learned((Causal(TOKENS, MiLe(1.0)), 400))
    assert_learned(found["causal/cross_entropy"], (A + B_OF_A) / 2)


def focal_prediction(q: np.ndarray) -> np.ndarray:
    """What the focal loss of gamma 1 predicts of q: the gradient is 0 at p = q (1 - p) / S, which sums to 1."""
    low, high = 0.0, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.sum(q / (middle + q)) > 1 else (low, middle)
    return q / (low + q)


@pytest.mark.slow
def test_focal_learns_its_own_flatter_optimum():
    a_cost = -np.sum(PRIOR * np.log(focal_prediction(PRIOR)))
    b_cost = -np.sum(CHANNEL[0] * np.log(focal_prediction(CHANNEL[0])))
    assert (a_cost + b_cost) / 2 > 1.02 * (A + B_OF_A) / 2
    (found,) = learned((Causal(TOKENS, Focal(1.0)), 400))
    assert_learned(found["causal/cross_entropy"], (a_cost + b_cost) / 2)


def unrolled_costs() -> tuple[float, float]:
    """L1 and L2 of the best table from what is read to what is said, for rows of one pair.

    Both passes share the table: what the first one answers is read again, next to noisy rows that look the same.
    """
    size, (nodes, weights) = TOKENS.vocab_size, np.polynomial.legendre.leggauss(8)
    share, chance = (nodes + 1) / 2, weights / 2
    own = np.eye(size)[FIRST : FIRST + 2 * KINDS]
    seen = (1 - share)[:, None, None] * own + share[:, None, None] / size  # [share, token, read]
    a_seen, b_seen = seen[:, :KINDS], seen[:, KINDS:]
    first = [
        np.einsum("n,nay,nbz,ab->yza", chance, a_seen, b_seen, JOINT).reshape(size**2, KINDS),
        np.einsum("n,nay,nbz,ab->yzb", chance, a_seen, b_seen, JOINT).reshape(size**2, KINDS),
    ]
    second = [np.zeros_like(mass) for mass in first]
    for _ in range(20):
        table = [one + two for one, two in zip(first, second, strict=True)]
        answer = (FIRST + table[0].argmax(1)) * size + FIRST + KINDS + table[1].argmax(1)
        second = [np.zeros_like(mass) for mass in first]
        for one, two in zip(first, second, strict=True):
            np.add.at(two, answer, one)
    table = [one + two for one, two in zip(first, second, strict=True)]
    logs = [np.log(both / both.sum(1, keepdims=True) + 1e-30) for both in table]
    return tuple(-sum(np.sum(m * log) for m, log in zip(mass, logs, strict=True)) / 2 for mass in (first, second))


@pytest.mark.slow
def test_ar2diff_learns_to_denoise_and_to_unroll_as_well_as_can_be():
    denoise, unroll = unrolled_costs()
    (found,) = learned((UnrolledDiffusion(TOKENS, prefix=False), 2500), length=2)
    assert_learned(found["denoise"], denoise, above=0.05)
    assert_learned(found["unroll"], unroll, above=0.05)


@pytest.mark.slow
def test_spactor_learns_what_its_generator_allows_and_then_the_entropy():
    # Six tokens: the encoder reads a b a, one of them masked; the decoder says b a b, behind a sentinel and before EOS.
    spans = SpanCorruption(TOKENS, noise_density=0.5, mean_span_length=3.0)
    first, second = learned((SpacTor(spans, mask_rate=1 / 3), 700), (spans, 400), length=6)
    assert_learned(first["generator"], (A_OF_B + B_OF_A + A) / 3, above=0.08)
    # A sample has its token's own probability given the others, so that what is read is as likely as the text was.
    likely = np.stack([JOINT / JOINT.sum(0), CHANNEL, np.tile(PRIOR[:, None], (1, KINDS))])
    replaced = (1 - likely) / 3
    judged = -np.sum(JOINT * (replaced * np.log(replaced) + (1 - replaced) * np.log(1 - replaced)))
    assert_learned(first["rtd"], judged / 5, above=0.08)  # neither the sentinel nor EOS is ever replaced
    read = np.eye(KINDS) * 2 / 3 + PRIOR[None, :] / 3  # from the second a to what the encoder reads
    heard = np.einsum("ab,at->tb", JOINT, read)
    assert_learned(first["span_corruption"], (entropy(heard) + B_OF_A) / 5, above=0.08)  # H(a) + H(b|heard a) + H(b|a)
    assert_learned(second["span_corruption"], (B_OF_A + A + B_OF_A) / 5)
