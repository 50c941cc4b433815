"""Torch's weights become our trees without a number lost, and what is missing or unexpected is named."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from support.decoder_runs import recipe
from support.numpy_bert import gpt_bert_weights
from support.places import GOLDEN
from support.runs import assert_same, begun

from mixlm.checkpoints.from_torch import dual_params, gpt_bert_params, llama_params, load_file, ltg_bert_params
from mixlm.checkpoints.safetensors import read_safetensors
from mixlm.errors import UserError
from mixlm.models.gpt_bert import GPTBert
from mixlm.models.llama import Llama
from mixlm.models.ltg_bert import LTGBert
from mixlm.objectives.causal import Causal
from mixlm.objectives.curriculum import Curriculum, Stage
from mixlm.tokens import TokenIds

TINY = {"vocab_size": 96, "emb_dim": 32, "num_heads": 4, "head_dim": 8, "mlp_dim": 56, "num_layers": 2}
READERS = {
    "llama": (llama_params, Llama(**TINY, logits_via_embedding=True)),
    "dual_causal": (dual_params, Llama(**TINY, projection_head=True)),
    "ltg_bert": (ltg_bert_params, LTGBert(**TINY, num_buckets=8)),
    "gpt_bert": (gpt_bert_params, GPTBert(**TINY, num_buckets=8)),
}
ALL = pytest.mark.parametrize("name", READERS)
# What torch shares or can compute: no numbers of their own.
BERT_COPIES = ("classifier.nonlinearity.5.weight", "position_indices")
COPIES = {"llama": ("lm_head.weight",), "ltg_bert": BERT_COPIES, "gpt_bert": BERT_COPIES}


def weights_of(name):
    if name == "gpt_bert":  # no figures of the original: drawn under its names
        return gpt_bert_weights(vocab=96, width=32, mlp=56, layers=2, buckets=8)
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


def write_safetensors(path, weights, dtype="F32"):
    """The format by its description: eight bytes of length, a header of JSON, then the arrays one after the other."""
    types = {"F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16, "I64": np.int64}
    header, content = {"__metadata__": {"format": "pt"}}, b""
    for name, value in weights.items():
        kind = "I64" if np.issubdtype(value.dtype, np.integer) else dtype
        written = value.astype(types[kind]).tobytes()
        offsets = [len(content), len(content) + len(written)]
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": offsets}
        content += written
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)
    return path


def started(path, network, **changes):
    """The line and the state that a run from the file begins with."""
    tokens = TokenIds(vocab_size=90, mask=4, bos=3, sentinels=5)
    curriculum = Curriculum((Stage(0, Causal(tokens)),))
    networks = {"model": network}
    folder = path.parent / "run"
    made = recipe("", folder, tokens=tokens, networks=networks, curriculum=curriculum, init_from=str(path), **changes)
    try:
        return begun(made)
    finally:
        assert not folder.exists()


@ALL
def test_a_run_begins_with_a_safetensors_file(name, tmp_path):
    reader, network = READERS[name]
    line, state = started(write_safetensors(tmp_path / "model.safetensors", weights_of(name)), network)
    assert (
        line == f"with the parameters of PyTorch's {tmp_path / 'model.safetensors'}, whose vocabulary cannot be checked"
    )
    assert_same(state.params["model"], reader(weights_of(name)))


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_is_widened(dtype, tmp_path):
    path = write_safetensors(tmp_path / "half.safetensors", weights_of("llama"), dtype)
    kind = jnp.bfloat16 if dtype == "BF16" else np.float16
    rounded = {name: value.astype(kind).astype(np.float32) for name, value in weights_of("llama").items()}
    assert_same(load_file(path), llama_params(rounded))


def test_an_index_names_several_files_of_its_own_folder(tmp_path):
    weights = weights_of("llama")
    names = sorted(weights)
    for number, part in enumerate((names[:5], names[5:])):
        write_safetensors(tmp_path / f"model-{number}.safetensors", {name: weights[name] for name in part})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"weight_map": {name: f"model-{int(i >= 5)}.safetensors" for i, name in enumerate(names)}})
    )
    assert_same(load_file(index), llama_params(weights))
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / index.name).write_text(json.dumps({"weight_map": {"a": "../model-0.safetensors"}}))
    with pytest.raises(UserError, match="which is not in it, so it is not read"):
        load_file(tmp_path / "inside" / index.name)


A_FLOAT = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ("[]", "is no JSON object"),
        ("[" * 100_000, "nested more than 64"),
        ('{"a": ' + "1" * 5000 + "}", "too many digits"),
        ("\0", "is not JSON"),
        (json.dumps({"a": 3}), "has no dtype, shape and data_offsets"),
        (json.dumps({"a": {**A_FLOAT, "data_offsets": [0, 4, 8]}}), "has no dtype, shape and data_offsets"),
        (json.dumps({"a": {**A_FLOAT, "shape": None}}), "has no dtype, shape and data_offsets"),
        (json.dumps({"a": {**A_FLOAT, "dtype": ["F32"]}}), "of another type"),
        (json.dumps({"a": {**A_FLOAT, "shape": ["1"]}}), "of another type"),
        (json.dumps({"a": {**A_FLOAT, "shape": [1.0]}}), "of another type"),
        (json.dumps({"a": {**A_FLOAT, "shape": [-1, -1]}}), "of another type"),
        (json.dumps({"a": {**A_FLOAT, "data_offsets": [-4, 0]}}), "of another type"),
        (json.dumps({"a": {**A_FLOAT, "data_offsets": [4, 8]}}), "has the bytes 4 to 8 of 4"),
        (json.dumps({"a": {**A_FLOAT, "data_offsets": [4, 0]}}), "has the bytes 4 to 0 of 4"),
        (json.dumps({"a": {**A_FLOAT, "shape": [2]}}), r"of shape \[2\] has 4 bytes"),
        (json.dumps({"a": {**A_FLOAT, "dtype": "I32", "data_offsets": [0, 9]}}), "has the bytes 0 to 9 of 4"),
    ],
    ids=lambda value: value[:24],
)
def test_a_header_of_other_types_is_one_sentence(tmp_path, header, sentence):
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(4))
    with pytest.raises(UserError, match=sentence) as error:
        read_safetensors(path)
    assert "a.safetensors" in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_header_longer_than_its_file_and_what_is_no_file_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    for content in (b"", b"1234567", (1).to_bytes(8, "little"), b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.safetensors is torn or no safetensors file"):
            read_safetensors(path)
    index = tmp_path / "a.safetensors.index.json"
    for content in ("[]", "{", '{"weight_map": []}', "[" * 100_000):
        index.write_text(content)
        with pytest.raises(UserError, match=r"a\.safetensors\.index\.json"):
            read_safetensors(index)
    path.unlink()
    os.mkfifo(path)
    index.write_text('{"weight_map": {"a": "a.safetensors", "b": "a.safetensors"}}')
    for place in (path, index):
        with pytest.raises(UserError, match=r"a\.safetensors' is a pipe, and only regular files are read"):
            read_safetensors(place)


def test_weights_that_cannot_be_halved_and_layers_without_end_are_named():
    weights = weights_of("ltg_bert")
    name = "transformer.layers.0.attention.in_proj_qk.bias"
    for odd in (weights[name][:-1], np.float32(1)):
        with pytest.raises(UserError, match=rf"^The weight '{name}' is of shape \(.*\), and holds no two arrays"):
            ltg_bert_params({**weights, name: odd})
    far = f"model.layers.{'9' * 5000}.mlp.up_proj.weight"
    with pytest.raises(UserError, match="is unexpected"):
        llama_params({**weights_of("llama"), far: np.zeros(1, np.float32)})


def test_a_safetensors_file_that_does_not_fit_is_one_sentence(tmp_path):
    _, network = READERS["llama"]
    path = write_safetensors(tmp_path / "model.safetensors", weights_of("llama"))
    other = write_safetensors(tmp_path / "gpt2.safetensors", {"h.0.attn.weight": np.zeros((2, 2), np.float32)})
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(path.read_bytes()[:-8])
    short = tmp_path / "short.safetensors"
    short.write_bytes(path.read_bytes()[:40])
    wrong = [
        (path, network.clone(mlp_dim=48), {}, r"'layers_0/mlp/wi_0/kernel' is of shape \(32, 56\), and the network's"),
        (path, network, {"init_optimizer": True}, "is a PyTorch checkpoint, of which the parameters alone are read"),
        (tmp_path / "modle.safetensors", network, {}, "is no file. Did you mean '.*/model.safetensors'"),
        (other, network, {}, r"holds no network that is read here: none of its names is one of model.layers.\*"),
        (torn, network, {}, "torn.safetensors is torn or no safetensors file"),
        (short, network, {}, "short.safetensors is torn or no safetensors file"),
        (path, READERS["ltg_bert"][1], {}, "is no parameter of this network"),
    ]
    for place, module, changes, sentence in wrong:
        with pytest.raises(UserError, match=sentence) as error:
            started(place, module, **changes)
        assert "\n" not in str(error.value)
