"""Networks of gin/models have the published numbers of parameters."""

import jax
import numpy as np
import pytest
from flax.core import meta
from flax.traverse_util import flatten_dict
from support import places

import gin
from mixlm.models import t5
from mixlm.models.gpt_bert import GPTBert
from mixlm.models.llama import Llama
from mixlm.models.ltg_bert import LTGBert
from mixlm.models.t5_decoder import DecoderOnly

GIN = places.GIN / "models"
# Parameters of the published T5 1.1 checkpoints, untied, with a vocabulary of 32,128.
COUNTS = {"small": 76_961_152, "base": 247_577_856, "large": 783_150_080, "xl": 2_849_757_184, "xxl": 11_135_332_352}
CLASSES = {"t5": t5.EncoderDecoder, "t5_decoder": DecoderOnly, "llama": Llama, "ltg_bert": LTGBert, "gpt_bert": GPTBert}


def network_from_gin(module, vocab_size, *names):
    """The network that the files of these names and a vocabulary describe."""
    gin.clear_config()
    try:
        for name in names:
            gin.parse_config_file(str(GIN / f"{name}.gin"))
        gin.parse_config(["from __gin__ import dynamic_registration", f"from mixlm.models import {module}"])
        gin.parse_config([f"VOCAB_SIZE = {vocab_size}", 'DTYPE = "bfloat16"', "DROPOUT_RATE = 0.0"])
        return gin.get_configurable(CLASSES[module])()
    finally:
        gin.clear_config()


def counted(network):
    """The numbers of parameters: all, and those in the layers."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), *network.inputs())["params"]
    counts = {
        name: np.prod(leaf.shape, dtype=np.int64) for name, leaf in flatten_dict(meta.unbox(shapes), sep="/").items()
    }
    return sum(counts.values()), sum(count for name, count in counts.items() if "layers_" in name)


def arithmetic(network):
    """The number of parameters from the sizes alone."""
    d, f, joined = network.emb_dim, network.mlp_dim, network.num_heads * network.head_dim
    attention, mlp = 4 * d * joined, 3 * d * f
    encoder = network.num_encoder_layers * (attention + mlp + 2 * d)
    decoder = network.num_decoder_layers * (2 * attention + mlp + 3 * d)
    return encoder + decoder + 2 * network.vocab_size * d + 2 * 32 * network.num_heads + 2 * d


@pytest.mark.parametrize("name", ["tiny", *COUNTS])
def test_sizes_of_t5_have_the_published_counts(name):
    network = network_from_gin("t5", 32128, "t5", f"t5_{name}")
    assert counted(network)[0] == arithmetic(network) == COUNTS.get(name, arithmetic(network))
    assert network.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("name", "module", "vocab_size", "total", "in_layers"),
    [
        # The model card's 470M and 360M; 468.7M and 362.7M by the released configuration.
        ("dual_470m", "llama", 51200, 468.7e6, 362.7e6),
        ("mile_468m", "llama", 32000, 468e6, None),
        ("mile_1b", "llama", 32000, 1.2e9, None),
        ("mile_7b", "llama", 32000, 6.7e9, None),
        ("babyllama_97m", "llama", 16000, 97e6, None),
        # By the release's own sizes: in a layer four biased projections, a norm and three matrices of the MLP.
        ("ltg_bert_base", "ltg_bert", 16384, 98.2e6, 12 * (4 * 768 * 769 + 2 * 768 + 3 * 768 * 2048)),
        ("ltg_bert_small", "ltg_bert", 16384, 27.7e6, 12 * (4 * 384 * 385 + 2 * 384 + 3 * 384 * 1024)),
        # Five biased projections, three matrices of the MLP, and 324 weights of the averages in all layers together.
        ("gpt_bert_base", "gpt_bert", 16384, 119_454_532, 12 * (5 * 768 * 769 + 3 * 768 * 2560) + 324),
        ("gpt_bert_small", "gpt_bert", 8192, 29_892_164, 12 * (5 * 384 * 385 + 3 * 384 * 1280) + 324),
        ("decoder_280m", "t5_decoder", 256000, 280e6, None),
        ("decoder_large", "t5_decoder", 256000, 570e6, None),
        ("decoder_1700m", "t5_decoder", 256000, 1.7e9, None),
    ],
)
def test_sizes_of_the_papers_have_their_counts(name, module, vocab_size, total, in_layers):
    network = network_from_gin(module, vocab_size, name)
    found, found_in_layers = counted(network)
    if isinstance(total, int):
        assert (found, found_in_layers) == (total, in_layers)
        return
    digits = len(f"{total / 10 ** np.floor(np.log10(total)):.4g}".replace(".", ""))
    half_a_digit = 0.5 * 10 ** (np.floor(np.log10(total)) - digits + 1)
    assert abs(found - total) <= half_a_digit, found
    assert in_layers is None or abs(found_in_layers - in_layers) < 5e4, found_in_layers
    assert network.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("llama_tiny", "llama"),
        ("dual_tiny", "llama"),
        ("ltg_bert_tiny", "ltg_bert"),
        ("gpt_bert_tiny", "gpt_bert"),
        ("decoder_tiny", "t5_decoder"),
    ],
)
def test_tiny_sizes_fit_a_laptop(name, module):
    """Each has the shape of a paper's network, and near a million parameters, most of them not of its 1,024 tokens."""
    network = network_from_gin(module, 1024, name)
    embedded = network.vocab_size * network.emb_dim * (1 if name != "dual_tiny" else 2)
    assert 0.5e6 < counted(network)[0] < 1.5e6 and counted(network)[0] > 2 * embedded
    papers = {"llama": "babyllama_97m", "dual": "dual_470m", "ltg_bert": "ltg_bert_base", "gpt_bert": "gpt_bert_small"}
    like = network_from_gin(module, 1024, papers.get(name.removesuffix("_tiny"), "decoder_280m"))
    sizes = ("emb_dim", "num_heads", "head_dim", "mlp_dim", "num_layers")
    assert like.clone(**{size: getattr(network, size) for size in sizes}) == network
