"""Every network that is exported computes in transformers what it computes here, to 1e-5 in float32."""

import warnings

import numpy as np
import pytest

pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")

from support.hf_networks import NETWORKS, our_logits, parameters, their_logits, written

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]
STANDARD = {
    "t5_1_1": "T5ForConditionalGeneration",
    "t5_1_1-scanned": "T5ForConditionalGeneration",
    "t5_1_0": "T5ForConditionalGeneration",
    "llama": "LlamaForCausalLM",
    "llama-tied-scanned": "LlamaForCausalLM",
}
OWN = [name for name in NETWORKS if name not in STANDARD]


def close(left, right):
    scale = np.abs(right).max()
    assert scale > 1 and np.abs(left - right).max() <= 1e-5 * max(1.0, scale)


@pytest.mark.parametrize("name", STANDARD)
def test_transformers_own_classes_compute_the_same(name, tmp_path):
    network = NETWORKS[name]
    params = parameters(network)
    folder = written(network, params, tmp_path / "out")
    model = getattr(transformers, STANDARD[name]).from_pretrained(folder)
    close(their_logits(model), our_logits(network, params, 1))


@pytest.mark.parametrize("name", OWN)
def test_our_classes_there_compute_the_same_in_every_direction(name, tmp_path):
    import torch

    network = NETWORKS[name]
    params = parameters(network)
    folder = written(network, params, tmp_path / "out", masked=True)
    load = {"trust_remote_code": True}
    causal = transformers.AutoModelForCausalLM.from_pretrained(folder, **load)
    masked = transformers.AutoModelForMaskedLM.from_pretrained(folder, **load)
    prefix = np.arange(45) >= np.array([[7], [20]])
    real = np.arange(45) < np.array([[45], [31]])
    close(their_logits(causal), our_logits(network, params, 1))
    close(their_logits(masked), our_logits(network, params, 0))
    close(
        their_logits(masked, attention="prefix", prefix_lengths=torch.tensor([7, 20])),
        our_logits(network, params, prefix),
    )
    padded = their_logits(causal, attention_mask=torch.from_numpy(real).long())
    close(padded[real], our_logits(network, params, 1, real)[real])
