"""A number of new tokens that no memory holds is refused before the network is compiled for it."""

import pytest

from mixlm.decoding.memory import check_length
from mixlm.decoding.strategies import Autoregressive, Masked
from mixlm.errors import UserError
from mixlm.models.llama import Llama
from mixlm.tokens import TokenIds

IDS = TokenIds(32, 4, sentinels=8)
LLAMA = Llama(vocab_size=32, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=24, num_layers=3)


@pytest.mark.parametrize(("strategy", "what"), [(Autoregressive(), "keys and values"), (Masked(), "logits")])
def test_new_tokens_that_do_not_fit_are_one_sentence(strategy, what):
    prompt = strategy.read(LLAMA, [[5, 6]], IDS)
    check_length(LLAMA, strategy, prompt, 64, IDS)
    with pytest.raises(
        UserError, match=rf"^Decoding 1000000000 tokens needs at least .*: {what} are .*; lower max_tok"
    ):
        check_length(LLAMA, strategy, prompt, 10**9, IDS)
    with pytest.raises(UserError, match=r"^max_tokens = 4294967296 is beyond 2\^31 - 1"):
        check_length(LLAMA, strategy, prompt, 2**32, IDS)


def test_keys_and_values_are_counted_of_every_layer():
    prompt = Autoregressive().read(LLAMA, [[5, 6]], IDS)
    # Two arrays of 3 layers, 2 heads of 8 floats, and two int32 of each slot: 392 bytes a token.
    with pytest.raises(UserError, match=r"needs at least 365\.1 GiB"):
        check_length(LLAMA, Autoregressive(), prompt, 10**9, IDS)
