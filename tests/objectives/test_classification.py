"""Classification: a slow reading of each row says what the network reads, what is pooled, and what it costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.networks import Bag

from mixlm.data.supervised.task import class_token
from mixlm.errors import UserError
from mixlm.models.heads import ClassHead, classified, only
from mixlm.objectives.classification import POOLS, Classification
from mixlm.rng import row_keys
from mixlm.tokens import TokenIds

IDS = TokenIds(vocab_size=30, mask=4, bos=3, sentinels=5)
SIZE, CLASSES = 5, 3
LENGTHS = {"inputs": SIZE, "targets": 1}


class Places:
    """A network whose hidden states are what it reads, where it reads it, and whether that may be seen."""

    def hidden(self, example):
        columns = (example.decoder_input_tokens, example.decoder_segments, example.decoder_mask_ar)
        return jnp.stack([jnp.asarray(column, jnp.float32) for column in columns], axis=-1)


def head(pooled):
    return pooled * jnp.asarray([[0.1, -0.4, 0.2]])


def terms(pool, rows):
    nets = {"model": Places(), "class_head": head}
    return Classification(IDS, LENGTHS, pool)(nets, {"tokens": rows}, row_keys(0, 0, 4), jnp.int32(0))


STEP = jax.jit(terms, static_argnums=0)
texts = st.tuples(st.lists(st.integers(5, 20), min_size=1, max_size=SIZE), st.integers(0, CLASSES - 1))


@pytest.mark.parametrize("pool", POOLS)
@settings(max_examples=8, deadline=None)
@given(st.lists(texts, min_size=3, max_size=3))
def test_the_loss_is_that_of_a_slow_reading(pool, rows):
    batch = np.zeros((4, SIZE + 1), np.int32)  # the last row is padding
    costs, right = [], []
    for row, (text, label) in enumerate(rows):
        batch[row, SIZE - len(text) : SIZE], batch[row, SIZE] = text, class_token(label, IDS)
        states = np.asarray([[token, 1, float(pool == "last")] for token in [IDS.bos, *text]])
        pooled = {"first": states[0], "last": states[-1], "mean": states.mean(axis=0)}[pool]
        logits = pooled * [0.1, -0.4, 0.2]
        costs.append(np.log(np.exp(logits).sum()) - logits[label])
        right.append(np.argmax(logits) == label)
    found = STEP(pool, jnp.asarray(batch))
    assert float(found["classification"].count) == 3
    np.testing.assert_allclose(found["classification"].value, np.mean(costs), rtol=1e-5)
    np.testing.assert_allclose(found["classification/accuracy"].value, np.mean(right), rtol=1e-6)
    np.testing.assert_allclose(found["classification/error"].value, 1 - np.mean(right), rtol=1e-6)


def test_the_answer_is_the_token_of_the_likeliest_class_whatever_the_label():
    objective = Classification(IDS, LENGTHS)
    nets = {"model": Places(), "class_head": lambda pooled: jnp.asarray([[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]])}
    rows = jnp.asarray([[0, 0, 7, 8, 1, 0], [5, 6, 7, 8, 1, class_token(2, IDS)]], jnp.int32)
    assert np.asarray(objective.answers(nets, {"tokens": rows})).tolist() == [[28], [29]]
    targets = objective.targets(row_keys(0, 0, 2), {"tokens": rows})["classification"]
    assert np.asarray(targets.scored).sum(axis=1).tolist() == [0, 1] and np.asarray(targets.scored)[1, -1]


def test_a_head_is_as_wide_as_the_network_and_other_networks_stay_behind():
    network = ClassHead(emb_dim=8, classes=2)
    assert only({"model": network, "generator": network}) == {"model": network}
    found = classified({"model": network, "generator": network}, 3, 0.1)
    assert found == {"model": network, "class_head": ClassHead(8, 3, 0.1)}
    made = jax.eval_shape(lambda key: network.init_with_output(key, jnp.ones((5, 8)))[0], jax.random.key(0))
    assert made.shape == (5, 2)
    with pytest.raises(UserError, match="Bag is an encoder-decoder, which is fine-tuned text to text"):
        classified({"model": Bag()}, 2)
    with pytest.raises(UserError, match="no network 'model' to fine-tune, only other"):
        only({"other": network})


@pytest.mark.parametrize(
    ("settings_of", "sentence"),
    [
        ({"pool": "cls"}, "POOL is 'first', 'last' or 'mean', not 'cls'"),
        ({"lengths": {"inputs": 5, "targets": 8}}, "A class is one token"),
    ],
)
def test_a_wrong_setting_is_one_sentence(settings_of, sentence):
    with pytest.raises(UserError, match=sentence):
        Classification(**{"tokens": IDS, "lengths": LENGTHS} | settings_of)
