"""What was exported comes back as a run with the same logits, and goes out again with the same bytes."""

import json
import pickle
import re
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from support.hf_networks import NETWORKS, our_logits, parameters, recipe
from support.runs import DEVICES

from mixlm.api.run import Run
from mixlm.cli import import_ as command
from mixlm.data.vocabulary import TrainedSentencePiece
from mixlm.errors import UserError
from mixlm.interop.hf import export
from mixlm.interop.hf.architectures import MODELING, architecture_of
from mixlm.interop.hf.imports import import_folder
from mixlm.interop.hf.networks import described
from mixlm.interop.hf.tokenizer import tokenizer_files
from mixlm.interop.hf.weights import fitted_rows, to_theirs

pytest.importorskip("tokenizers")
WORDS = [f"The farmer sells {many} letters to a captain {where}." for many in "two few" for where in ("here", "there")]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    spec = TrainedSentencePiece(vocab_size=46, sentinels=20)
    return spec.load(lambda: WORDS * 9, "text", tmp_path_factory.mktemp("vocabulary"), lambda line: None)


@pytest.fixture
def one_device(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda *_: DEVICES[:1])


def exported(name, folder, vocabulary):
    """The folder of an export, and the network's parameters."""
    network, params = NETWORKS[name], parameters(NETWORKS[name])
    architecture = architecture_of(recipe(network, folder.parent / "run", masked="bert" in name))
    contents = tokenizer_files(vocabulary, decoder=architecture.kind != "t5")
    contents |= {"config.json": export.as_json(architecture.config), "README.md": b"# A card\n"}
    if architecture.kind == "mixlm":
        contents[f"{MODELING}.py"] = b"# code\n"
    export.write_folder(folder, contents, to_theirs(architecture.kind, params))
    return params


def test_export_import_and_export_again_are_the_same_bytes(tmp_path, vocabulary, one_device):
    """One network; `test_hf_chain` has this law for those of every recipe."""
    params = exported("llama", tmp_path / "a", vocabulary)
    import_folder(tmp_path / "a", tmp_path / "run", say=lambda line: None)
    run = Run(tmp_path / "run")  # by its own config.gin
    assert run.recipe.tokens == vocabulary.token_ids.__class__(46, mask=4, bos=3, sentinels=20)
    network = run.recipe.networks["model"]
    np.testing.assert_array_equal(our_logits(network, run.params["model"], 1), our_logits(NETWORKS["llama"], params, 1))
    export.export(run, tmp_path / "b", say=lambda line: None)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_a_config_writes_no_line_of_gin():
    """The names of a network's fields go into network.gin, where more than a name could import and call anything."""
    config = architecture_of(recipe(NETWORKS["dual"], Path("run"))).config
    assert described(config, "config.json").network == "Llama"
    for name in ("x = 1\nimport os", "Llama.x", "@os.system"):
        with pytest.raises(UserError, match=f"has a field {re.escape(repr(name))}, which is no name"):
            described(config | {name: 1}, "config.json")


def test_rows_are_added_as_the_mean_and_padding_changes_places():
    table = np.arange(6, dtype=np.float32).reshape(3, 2)
    wide = fitted_rows("shared.weight", table, "t5", 5, 2)
    np.testing.assert_array_equal(wide, [[4, 5], [2, 3], [0, 1], [2, 3], [2, 3]])
    assert fitted_rows("model.norm.weight", table, "llama", 5, 2) is table
    assert fitted_rows("shared.weight", table, "t5", 3, 0) is table


BROKEN = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "is no folder of transformers: it has no config"),
    "an architecture": (lambda folder: said(folder, model_type="gpt2"), "'gpt2', and only t5, llama, mixlm are import"),
    "shapes": (lambda folder: said(folder, intermediate_size=40), r"of shape \(48, 32\), and config.json says \(40, 3"),
    "a tokenizer": (lambda folder: said(folder, vocab_size=40), "has 46 ids, and its network 40: they do not belong"),
    "groups": (lambda folder: said(folder, num_key_value_heads=2), "num_key_value_heads = 2, and the network here"),
    "biases": (lambda folder: said(folder, attention_bias=True), "attention_bias = True, and the network here has Fa"),
    "a rope": (lambda folder: said(folder, rope_parameters={"rope_type": "yarn"}), "rope_type = 'yarn'"),
    "a field": (lambda folder: said(folder, hidden_size=None), "does not say 'hidden_size', which llama has"),
    "no size": (lambda folder: said(folder, vocab_size=None), "does not say 'vocab_size', which llama has"),
    "a text": (lambda folder: said(folder, hidden_size="32"), "hidden_size = '32', which should be a whole number"),
    "a pickle": (lambda folder: pickled(folder), r"a pickle \(pytorch_model.bin\), which can run any code"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "holds no tokenizer"),
    "a torn file": (lambda folder: torn(folder), "is torn or no safetensors file"),
    "a torn tokenizer": (lambda folder: torn(folder, "tokenizer.json"), "tokenizer.json' is not JSON"),
    "a pickle by another name": (lambda folder: renamed(folder), "is torn or no safetensors file"),
    "a lost shard": (lambda folder: sharded(folder), "model-2.safetensors.* cannot be read"),
}


def said(folder, **changes):
    """Changes config.json; None takes a field out."""
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def renamed(folder):
    (folder / "model.safetensors").write_bytes(pickle.dumps({"model.norm.weight": np.ones(32)}))


def sharded(folder):
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    shards = {"model.norm.weight": "model-1.safetensors", "lm_head.weight": "model-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def torn(folder, name="model.safetensors"):
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])


@pytest.fixture(scope="module")
def llama(tmp_path_factory, vocabulary):
    folder = tmp_path_factory.mktemp("llama") / "a"
    exported("llama", folder, vocabulary)
    return folder


@pytest.mark.parametrize(("change", "sentence"), BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_named_and_leaves_nothing(change, sentence, llama, tmp_path, one_device):
    shutil.copytree(llama, tmp_path / "a")
    change(tmp_path / "a")
    with pytest.raises(UserError, match=sentence):
        import_folder(tmp_path / "a", tmp_path / "run", say=lambda line: None)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("", "An import needs a checkpoint and a new folder"),
        ("folder out", "'folder' does not say its format: write hf:FOLDER"),
        ("hf:a b --sentinel=3", "no flag '--sentinel'. Did you mean '--sentinels'"),
        ("hf:nowhere b", "nowhere is no folder of transformers"),
    ],
)
def test_a_wrong_command_is_a_sentence(arguments, sentence, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mixlm import", *arguments.split()])
    with pytest.raises(UserError, match=re.escape(sentence)):
        command.main()
