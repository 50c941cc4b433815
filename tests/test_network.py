"""Networks meet their protocols, and isinstance does not set an unbound Linen module up."""

import pytest

from mixlm.errors import UserError
from mixlm.models.gpt_bert import GPTBert
from mixlm.models.heads import TokenHead
from mixlm.models.llama import Llama
from mixlm.models.ltg_bert import LTGBert
from mixlm.models.t5 import EncoderDecoder
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.network import (
    CachedNetwork,
    EncoderDecoderNetwork,
    FixedVocabulary,
    Initializable,
    LayeredNetwork,
    Net,
    Network,
)

SIZES = {"vocab_size": 32, "emb_dim": 8, "num_heads": 2, "head_dim": 4, "mlp_dim": 8}
DECODERS = [kind(**SIZES, num_layers=1) for kind in (DecoderOnly, Llama, LTGBert, GPTBert)]
ENCODER_DECODER = EncoderDecoder(**SIZES, num_encoder_layers=1, num_decoder_layers=1)
HEAD = TokenHead(8)


@pytest.mark.parametrize("network", [*DECODERS, ENCODER_DECODER], ids=lambda network: type(network).__name__)
def test_a_network_with_layers_predicts_tokens_caches_and_can_be_scanned(network):
    for protocol in (Initializable, Network, CachedNetwork, LayeredNetwork, FixedVocabulary):
        assert isinstance(network, protocol)


def test_only_the_encoder_decoder_has_an_encoder():
    assert isinstance(ENCODER_DECODER, EncoderDecoderNetwork)
    assert not any(isinstance(network, EncoderDecoderNetwork) for network in [*DECODERS, HEAD])


def test_a_head_over_hidden_states_predicts_no_tokens():
    assert isinstance(HEAD, Initializable)
    for protocol in (Network, CachedNetwork, LayeredNetwork, FixedVocabulary):
        assert not isinstance(HEAD, protocol)


def test_asking_for_a_protocol_does_not_set_a_module_up():
    class Fragile(Llama):
        def setup(self) -> None:
            raise AssertionError("set up")

    network = Fragile(**SIZES, num_layers=1)
    assert isinstance(network, CachedNetwork) and not isinstance(network, EncoderDecoderNetwork)


def test_a_method_that_the_network_lacks_is_named():
    with pytest.raises(UserError, match="TokenHead has no method 'logits'"):
        Net(HEAD, {}).logits  # noqa: B018
