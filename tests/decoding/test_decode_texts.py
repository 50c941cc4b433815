"""decode_texts: a value for each prompt, by any strategy, with settings as keywords."""

import jax
import jax.numpy as jnp
import pytest
from flax.core import meta
from support.small_run import recipe as small_recipe

from mixlm.checkpoints.run_dir import RunDir
from mixlm.checkpoints.saving import Checkpoints
from mixlm.decoding.run import decode_texts
from mixlm.decoding.text import until_eos
from mixlm.errors import UserError

TEXTS = ["The farmer sells", "Every teacher"]


@pytest.fixture(scope="module")
def recipe(corpus, tmp_path_factory):
    """The recipe of a run whose network was never trained, but says different things."""
    folder = tmp_path_factory.mktemp("run")
    made = small_recipe(str(corpus), str(folder))
    module = made.networks["model"]
    params = meta.unbox(jax.jit(module.init)(jax.random.key(1), *module.inputs())["params"])
    run = RunDir(folder)
    run.acquire(made.identity(), "")
    run.release()
    checkpoints = Checkpoints(run.checkpoints)
    checkpoints.save(3, {"params": {"model": jax.tree.map(lambda leaf: 2.0 * jnp.asarray(leaf), params)}})
    checkpoints.close()
    return made


def test_each_text_is_continued_in_order(recipe):
    found = decode_texts(recipe, TEXTS, "autoregressive", max_tokens=5)
    vocabulary = recipe.dataset.prepare(lambda line: None).vocabulary
    assert [each.prompt for each in found] == TEXTS
    for text, each in zip(TEXTS, found):
        assert each.text == vocabulary.decode(until_eos(each.tokens, recipe.tokens)) and 1 <= each.calls <= 5
        assert each.batch == 2 and each.milliseconds > 0
        assert each.score is None and each.states == () and not each.spans
        alone = decode_texts(recipe, [text], "autoregressive", max_tokens=5)
        assert alone[0].tokens == each.tokens
    assert found[0].tokens != found[1].tokens


def test_settings_are_those_of_the_strategy(recipe):
    # The last stage is masked diffusion.
    found = decode_texts(recipe, TEXTS[:1], max_tokens=4, show_steps=True, steps=2, order="ancestral", temperature=1.0)
    assert len(found[0].states) == 3 and found[0].states[0].split() == ["_"] * 4 and found[0].calls == 2
    other = decode_texts(recipe, TEXTS[:1], max_tokens=4, seed=1, steps=2, order="ancestral", temperature=1.0)
    assert other[0].tokens != found[0].tokens and other[0].states == ()


def test_a_choice_among_texts_has_a_score(recipe):
    assert decode_texts(recipe, TEXTS[:1], "autoregressive", max_tokens=3, beams=2)[0].score < 0


def test_no_texts_are_no_continuations(recipe):
    assert decode_texts(recipe, []) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"how": "mask"}, "Did you mean 'masked'"),
        ({"beams": 2}, "beams has no effect on masked"),
        ({"order": "ancestrall"}, "Did you mean 'ancestral'"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"seed": -1}, "seed must be from 0"),
        ({"how": "autoregressive", "show_steps": True}, "show_steps shows"),
    ],
)
def test_a_mistake_is_one_sentence(recipe, settings, words):
    with pytest.raises(UserError, match=words):
        decode_texts(recipe, TEXTS, **settings)
