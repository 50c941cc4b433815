"""Torch's weights become our trees without a number lost, and what is missing or unexpected is named."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from support.places import GOLDEN

from mixlm.checkpoints.from_torch import dual_params, llama_params, ltg_bert_params
from mixlm.errors import UserError
from mixlm.models.llama import Llama
from mixlm.models.ltg_bert import LTGBert

TINY = {"vocab_size": 96, "emb_dim": 32, "num_heads": 4, "head_dim": 8, "mlp_dim": 56, "num_layers": 2}
READERS = {
    "llama": (llama_params, Llama(**TINY, logits_via_embedding=True)),
    "dual_causal": (dual_params, Llama(**TINY, projection_head=True)),
    "ltg_bert": (ltg_bert_params, LTGBert(**TINY, num_buckets=8)),
}
ALL = pytest.mark.parametrize("name", READERS)
# What torch shares or can compute: no numbers of their own.
COPIES = {"llama": ("lm_head.weight",), "ltg_bert": ("classifier.nonlinearity.5.weight", "position_indices")}


def weights_of(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key.removeprefix("params/"): file[key] for key in file if key.startswith("params/")}


def template(network):
    return jax.eval_shape(network.init, jax.random.key(0), *network.inputs())["params"]


@ALL
def test_every_number_is_read_once(name):
    reader, network = READERS[name]
    weights = weights_of(name)
    tree = flatten_dict(reader(weights, template(network)), sep="/")
    assert {leaf.dtype for leaf in tree.values()} == {np.dtype("float32")}
    ours = np.sort(np.concatenate([leaf.ravel() for leaf in tree.values()]))
    own = [value for key, value in weights.items() if not key.endswith(COPIES.get(name, ("?",)))]
    np.testing.assert_array_equal(ours, np.sort(np.concatenate([value.ravel() for value in own])))


@ALL
def test_each_missing_weight_is_named(name):
    reader, _ = READERS[name]
    weights = weights_of(name)
    for missing in weights:
        if "position_indices" in missing or missing == "lm_head.weight":
            continue
        with pytest.raises(UserError, match=f"^The weight {missing!r} is missing") as error:
            reader({key: value for key, value in weights.items() if key != missing})
        assert "\n" not in str(error.value)


@ALL
def test_an_unexpected_weight_is_named(name):
    reader, _ = READERS[name]
    with pytest.raises(UserError, match=r"'model.layers.0.self_attn.q_proj.bias' is unexpected"):
        reader({**weights_of(name), "model.layers.0.self_attn.q_proj.bias": np.zeros(32, np.float32)})


def test_a_misspelt_weight_has_its_neighbour_named():
    weights = weights_of("llama")
    weights["model.layers.1.mlp.gate_prog.weight"] = weights.pop("model.layers.1.mlp.gate_proj.weight")
    with pytest.raises(UserError, match=r"mean 'model.layers.1.mlp.gate_prog.weight'"):
        llama_params(weights)


@ALL
def test_weights_of_another_size_are_named(name):
    reader, network = READERS[name]
    with pytest.raises(UserError, match=r"is of shape \(.*\), and the network's is \("):
        reader(weights_of(name), template(network.clone(mlp_dim=48)))


def test_a_head_of_its_own_is_read_and_a_tied_one_is_not():
    weights = weights_of("llama")
    tied = llama_params(weights)
    del weights["lm_head.weight"]
    assert "logits_dense" not in tied and flatten_dict(tied).keys() == flatten_dict(llama_params(weights)).keys()
    head = np.arange(96 * 32, dtype=np.float32).reshape(96, 32)
    np.testing.assert_array_equal(llama_params({**weights, "lm_head.weight": head})["logits_dense"]["kernel"], head.T)
    dual = weights_of("dual_causal")
    embedding = dual["embedding.word_embedding.weight"]
    assert "logits_dense" in dual_params(dual)
    assert "logits_dense" not in dual_params({**dual, "classifier.emb2vocab.weight": embedding})
    bert = weights_of("ltg_bert")
    with pytest.raises(UserError, match=r"'classifier.nonlinearity.5.weight' differs from the embedding"):
        ltg_bert_params({**bert, "classifier.nonlinearity.5.weight": embedding})


def test_tables_that_older_torch_keeps_are_left_out():
    table = {"model.layers.1.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    llama_params({**weights_of("llama"), **table})
