"""Exact match counts what equals the target, whatever the batches, and each pair meets its own prompt."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.decoding.autoregressive import Decoded, decoder_prompts
from mixlm.errors import UserError
from mixlm.evaluation.exact_match import Decoding, ExactMatch, Pair, _Decoder, _shares
from mixlm.tokens import TokenIds

IDS = TokenIds(vocab_size=60, mask=4, bos=3, sentinels=5)


@dataclass(frozen=True)
class Echo:
    """Says the last two tokens of each prompt and EOS, with as many calls as the prompt's last token says."""

    texts: int = 3

    def read(self, module, rows, ids):
        return decoder_prompts(rows)

    def __call__(self, module, params, prompt, keys, length, ids):
        last = prompt.decoder_input_tokens[:, -2:]
        said = jnp.zeros((len(keys), length), jnp.int32).at[:, :2].set(last).at[:, 2].set(ids.eos)
        return Decoded(said, last[:, 1])


@settings(max_examples=5, deadline=None)
@given(st.lists(st.lists(st.integers(5, 50), min_size=2, max_size=40), min_size=1, max_size=9), st.integers(1, 5))
def test_each_pair_gets_its_own_answer_in_any_batches(prompts, batch):
    pairs = [Pair("ab"[place % 2], tuple(row), tuple(row[-2:])) for place, row in enumerate(prompts)]
    said, figures = _Decoder(None, None, Echo(), IDS, batch, 0).answers(pairs, 5)
    assert said == [row[-2:] for row in prompts]
    assert figures["calls"] == pytest.approx(np.mean([row[-1] for row in prompts]))
    assert figures["rows_times_calls"] == pytest.approx(3 * figures["calls"])
    assert _shares(pairs, said)["exact"] == 1
    wrong = [*said[:-1], [7, 7, 7]]
    shares = _shares(pairs, wrong)
    assert shares["exact"] == pytest.approx(1 - 1 / len(pairs))
    if len(pairs) > 1:
        part = "ab"[(len(pairs) - 1) % 2]
        of_part = sum(each.part == part for each in pairs)
        assert shares[f"exact/{part}"] == pytest.approx(1 - 1 / of_part)


def test_a_decoding_is_a_name_and_settings():
    given = Decoding.of("unrolled steps=5 temperature=0.2 samples=8")
    assert (given.how, given.settings) == ("unrolled", {"steps": 5, "temperature": 0.2, "samples": 8})
    assert given.label == "unrolled_steps_5_temperature_0.2_samples_8"
    assert Decoding.of("masked order=ancestral").settings == {"order": "ancestral"}
    assert Decoding.of("") == Decoding("", None, {}) and Decoding.of("").label == "as_trained"
    assert Decoding.of("beams=2").how is None
    for text in ("unrolled steps", "unrolled =5", "unrolled 5=5"):
        with pytest.raises(UserError, match=r"is no NAME=VALUE, such as 'unrolled steps=10 samples=8'"):
            Decoding.of(text)
    with pytest.raises(UserError, match="is no NAME=VALUE"):
        ExactMatch(("autoregressive beams",))
    with pytest.raises(UserError, match="DECODINGS names no decoding"):
        ExactMatch(())
