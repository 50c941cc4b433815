"""A run is written for transformers whole: weights by their names, tokenizer, card; or not at all, with a sentence."""

import json
import re
import sys

import jax
import numpy as np
import pytest
from support.hf_networks import DECODER, NETWORKS, SIZE, parameters, recipe, their_logits, written
from support.networks import Bag
from support.runs import DEVICES

from mixlm.api.run import Run
from mixlm.checkpoints.safetensors import read_safetensors, write_safetensors
from mixlm.cli import export as command
from mixlm.errors import UserError
from mixlm.interop.hf.architectures import architecture_of
from mixlm.interop.hf.export import export
from mixlm.interop.hf.weights import from_theirs, to_theirs
from mixlm.models.llama import Llama
from mixlm.models.t5 import EncoderDecoder
from mixlm.params import unstack_layers
from mixlm.training import run as loop


@pytest.mark.parametrize("name", NETWORKS)
def test_names_are_read_in_both_directions(name, tmp_path):
    network = NETWORKS[name]
    kind, params = architecture_of(recipe(network, tmp_path)).kind, parameters(network)
    there = to_theirs(kind, params)
    assert list(there) == sorted(there) and len(there) == len(jax.tree.leaves(unstack_layers(params)))
    back = from_theirs(kind, there, params)
    jax.tree.map(np.testing.assert_array_equal, back, params)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda names: names.pop("model.norm.weight"), "The weight 'model.norm.weight' is missing"),
        (lambda names: names.update(extra=np.zeros(2, np.float32)), "The weight 'extra' is unexpected"),
        (
            lambda names: names.update({"model.norm.weight": np.zeros(5, np.float32)}),
            r"'model.norm.weight' is of shape \(5,\), and config.json says \(32,\)",
        ),
        (lambda names: names.update({"lm_head.weight": np.zeros((112, 32), np.float32)}), "'lm_head.weight' is unexp"),
    ],
)
def test_weights_that_do_not_fit_are_named(change, sentence, tmp_path):
    params = parameters(NETWORKS["llama-tied-scanned"])
    there = to_theirs("llama", params)
    from_theirs("llama", there | {"lm_head.weight": there["model.embed_tokens.weight"]}, params)  # a copy is none
    change(there)
    with pytest.raises(UserError, match=sentence):
        from_theirs("llama", there, params)


def test_safetensors_are_those_of_the_library(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    arrays = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a.c": np.float32(2.5).reshape(())}
    write_safetensors(tmp_path / "a.safetensors", arrays)
    for found in (library.load_file(tmp_path / "a.safetensors"), read_safetensors(tmp_path / "a.safetensors")):
        assert found.keys() == arrays.keys()
        assert all(
            np.array_equal(found[name], arrays[name]) and found[name].shape == arrays[name].shape for name in arrays
        )
    assert int.from_bytes((tmp_path / "a.safetensors").read_bytes()[:8], "little") % 8 == 0  # the arrays are aligned


@pytest.mark.parametrize(
    ("network", "masked", "kind"),
    [
        (NETWORKS["llama"], False, "llama"),
        (NETWORKS["llama"], True, "mixlm"),  # it also reads ahead, which LlamaForCausalLM cannot
        (NETWORKS["dual"], False, "mixlm"),
        (Llama(**{**DECODER, "emb_dim": 30}), False, "mixlm"),  # 4 heads do not divide it, as LlamaConfig asks
    ],
)
def test_transformers_own_class_is_taken_where_it_computes_the_same(network, masked, kind, tmp_path):
    assert architecture_of(recipe(network, tmp_path, masked)).kind == kind


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (Bag(vocab_size=112), "The network Bag has no architecture in transformers, only EncoderDecoder, Llama"),
        (
            EncoderDecoder(**SIZE, num_encoder_layers=1, num_decoder_layers=1, mlp_activations=("linear", "gelu")),
            r"no MLP of \('linear', 'gelu'\)",
        ),
        (
            EncoderDecoder(**SIZE, num_encoder_layers=1, num_decoder_layers=1, num_buckets=48, max_distance=81),
            "puts a distance of 36 into another bucket",
        ),
    ],
)
def test_a_network_that_transformers_has_not_is_named(network, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        architecture_of(recipe(network, tmp_path))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("", "An export needs a run, a format and a new folder: mixlm export RUN --to=hf OUT"),
        ("a b --to=hff", "no format 'hff', only hf, t5x. Did you mean 'hf'"),
        ("a b c --to=hf", "one run into one folder: leave 'c' out"),
        ("a b --tto=hf", "no flag '--tto'. Did you mean '--to'"),
        ("nowhere b --to=hf", "There is no run in nowhere"),
    ],
)
def test_a_wrong_command_is_a_sentence(arguments, sentence, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mixlm export", *arguments.split()])
    with pytest.raises(UserError, match=re.escape(sentence)):
        command.main()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("name", "masked"), [("llama", False), ("dual", True), ("t5_1_1", False)])
def test_a_run_is_loaded_with_its_tokenizer(name, masked, tmp_path, corpus, monkeypatch):
    transformers = pytest.importorskip("transformers")
    monkeypatch.setattr(jax, "devices", lambda *_: DEVICES[:1])
    made = recipe(NETWORKS[name], tmp_path / "run", masked, corpus)
    loop.train(made, lambda line: None)
    run, said = Run(tmp_path / "run", made), []
    folder = export(run, tmp_path / "out", say=said.append)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    vocabulary = made.dataset.prepare(lambda line: None).vocabulary
    text = "The farmer sells  two letters in the harbour."
    assert tokenizer(text, add_special_tokens=False).input_ids == vocabulary.encode(text)
    assert (tokenizer.mask_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id) == (4, 0, 1)
    assert tokenizer.convert_tokens_to_ids("<extra_id_0>") == 111
    auto = transformers.AutoModelForSeq2SeqLM if name == "t5_1_1" else transformers.AutoModelForCausalLM
    model = auto.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__name__ == json.loads((folder / "config.json").read_text())["architectures"][0]
    again = written(made.networks["model"], run.params["model"], tmp_path / "again", masked)
    np.testing.assert_array_equal(
        their_logits(model), their_logits(auto.from_pretrained(again, trust_remote_code=True))
    )
    ids = tokenizer(text, return_tensors="pt")
    out = model.generate(**ids, max_new_tokens=3, do_sample=False)
    assert out.shape[1] <= ids.input_ids.shape[1] + 4
    card = (folder / "README.md").read_text()
    assert "validation after step" in card and made.dataset.prepare(print).vocabulary.fingerprint in card
    with pytest.raises(UserError, match="exists and is not empty"):
        export(run, folder)
