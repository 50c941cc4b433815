"""A discriminator's beliefs as shaded tokens: each with its chance, samples marked, padding left out."""

from types import SimpleNamespace

import numpy as np
import pytest

from mixlm.errors import UserError
from mixlm.objectives.spactor import SpacTor
from mixlm.objectives.span_corruption import SpanCorruption
from mixlm.recipe import Recipe
from mixlm.tokens import TokenIds
from mixlm.training import beliefs

TOKENS = TokenIds(vocab_size=64, mask=3, sentinels=8)
SPANS = SpanCorruption(TOKENS)
WORDS = SimpleNamespace(decode=lambda ids: " ".join(f"w{each}" for each in ids))


def recipe(*objectives):
    """A recipe of objectives alone."""
    made = object.__new__(type("Made", (Recipe,), {"objectives": objectives, "modules": ()}))
    for name, value in {"name": "made", "seed": 0, "tokens": TOKENS}.items():
        object.__setattr__(made, name, value)
    return made


def test_each_token_has_its_chance_and_a_sample_what_stood_there(monkeypatch):
    read = np.array([[10, 11, 12, 0], [20, 21, 22, 23]], np.int32)
    before = np.array([[10, 15, 12, 0], [20, 21, 22, 25]], np.int32)
    chance = np.linspace(0.1, 0.8, 8).reshape(2, 4)
    found = SimpleNamespace(example=SimpleNamespace(encoder_input_tokens=read), before=before, replaced=read != before)
    monkeypatch.setattr(beliefs, "_judged", lambda *_: (found, chance))
    monkeypatch.setattr(beliefs.jax, "device_get", lambda value: value)
    monkeypatch.setattr(beliefs, "spaced", lambda vocabulary, ids, tokens: vocabulary.decode(ids))
    params = dict.fromkeys(SpacTor(SPANS).networks)
    shown = beliefs.beliefs(recipe(SPANS, SpacTor(SPANS)), WORDS, {"tokens": read}, params)
    texts = [[(token.text, round(token.value, 6), token.marked, token.before) for token in row] for row in shown.rows]
    assert texts == [
        [("w10", 0.1, False, ""), ("w11", 0.2, True, "w15"), ("w12", 0.3, False, "")],
        [("w20", 0.5, False, ""), ("w21", 0.6, False, ""), ("w22", 0.7, False, ""), ("w23", 0.8, True, "w25")],
    ]


def test_a_recipe_without_a_discriminator_is_told_so():
    with pytest.raises(UserError, match=r"^No objective of made detects replaced tokens: it trains span_corruption\.$"):
        beliefs.beliefs(recipe(SPANS), WORDS, {"tokens": np.zeros((1, 4), np.int32)}, {})
