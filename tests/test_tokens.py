"""The special ids: what is refused, and where the sentinels lie."""

import re

import pytest

from mixlm.errors import UserError, nearest
from mixlm.tokens import TokenIds


@pytest.mark.parametrize("name", ["mask", "pad", "eos", "unk", "bos"])
@pytest.mark.parametrize("value", [-1, 50, 51])
def test_an_id_outside_of_the_vocabulary_is_refused_by_name(name: str, value: int):
    ids = {"vocab_size": 50, "mask": 3, "sentinels": 10, name: value}
    with pytest.raises(UserError, match=re.escape(f"TokenIds.{name} = {value}") + ".*50"):
        TokenIds(**ids)


@pytest.mark.parametrize("sentinels", [-1, 50, 100])
def test_sentinels_that_do_not_fit_are_refused(sentinels: int):
    with pytest.raises(UserError, match=f"{sentinels} sentinels.*50"):
        TokenIds(vocab_size=50, mask=3, sentinels=sentinels)


@pytest.mark.parametrize("name", ["mask", "pad", "eos", "unk", "bos"])
@pytest.mark.parametrize("value", [0, 49])
def test_the_first_and_the_last_id_of_the_vocabulary_are_accepted(name: str, value: int):
    ids = {"vocab_size": 50, "mask": 3, "sentinels": 49, name: value}
    assert getattr(TokenIds(**ids), name) == value


def test_t5s_layout_is_the_default_and_its_first_sentinel_is_the_highest_id():
    tokens = TokenIds(vocab_size=32100, mask=31999)
    assert (tokens.pad, tokens.eos, tokens.unk, tokens.bos, tokens.sentinels) == (0, 1, 2, 0, 100)
    assert tokens.first_sentinel == 32099


def test_ids_are_equal_by_value_so_that_they_can_be_static_under_jit():
    assert TokenIds(50, 3, sentinels=5) == TokenIds(50, 3, sentinels=5)
    assert hash(TokenIds(50, 3, sentinels=5)) == hash(TokenIds(50, 3, sentinels=5))
    assert TokenIds(50, 3, sentinels=5) != TokenIds(50, 4, sentinels=5)


def test_the_nearest_name_ignores_case_and_is_silent_where_none_is_close():
    assert nearest("mile_los", ["Focal", "MiLe_Loss"]) == " Did you mean 'MiLe_Loss'?"
    assert nearest("MILE_LOSS", ["mile_loss"]) == " Did you mean 'mile_loss'?"
    assert nearest("zzzz", ["Focal", "MiLe_Loss"]) == ""
    assert nearest("anything", []) == ""
