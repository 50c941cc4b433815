"""Vocabularies without a file of their own ids go out and come in: bytes, and a tokenizer.json whose id 0 is text."""

import json

import jax
import numpy as np
import pytest
from support.hf_networks import NETWORKS, SIZE, T5, our_logits, parameters, recipe
from support.runs import DEVICES

from mixlm.api.run import Run
from mixlm.data.vocabularies.given import GivenVocabulary
from mixlm.errors import UserError
from mixlm.interop.hf import export
from mixlm.interop.hf.architectures import architecture_of
from mixlm.interop.hf.imports import import_folder
from mixlm.interop.hf.tokenizer import frame, tokenizer_files
from mixlm.interop.hf.weights import to_theirs

tokenizers = pytest.importorskip("tokenizers")
ODD = ["", " a", "The  farmer\n\tsells é e\u0301 日本 \u2581\ufb01 \U0001f600\x00\xa0", "\ufeff caf\u00e9 "]


@pytest.fixture
def one_device(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda *_: DEVICES[:1])


@pytest.mark.parametrize("name", ["bytes", "byt5"])
def test_bytes_have_the_same_ids_in_a_fast_tokenizer(name):
    vocabulary = GivenVocabulary(name, sentinels=20).load()
    ids = vocabulary.token_ids
    assert (ids.bos == ids.pad) == (name == "byt5")
    content = tokenizer_files(vocabulary, decoder=name == "bytes")
    tokenizer = tokenizers.Tokenizer.from_str(content["tokenizer.json"].decode())
    for text in ODD:
        found = tokenizer.encode(text, add_special_tokens=False)
        assert found.ids == vocabulary.encode(text) == [byte + 3 for byte in text.encode()]
        assert tokenizer.decode(found.ids) == text
        framed = tokenizer.encode(text).ids
        assert framed == ([ids.bos, *found.ids] if name == "bytes" else [*found.ids, ids.eos])
    marked = "one <extra_id_0> two<extra_id_19>"
    assert tokenizer.encode(marked, add_special_tokens=False).ids == vocabulary.encode_with_sentinels(marked)
    config = json.loads(content["tokenizer_config.json"])
    assert tokenizer.token_to_id(config["mask_token"]) == ids.mask and tokenizer.token_to_id("<pad>") == 0


@pytest.mark.parametrize(("template", "around"), [("<s> $A </s>", ((256,), (257,))), ("$A", ((), ()))])
def test_the_frame_of_a_text_is_that_of_its_file(template, around, tmp_path):
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({each: place for place, each in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<s>", "</s>"])
    special = [("<s>", 256), ("</s>", 257)]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(template, None, special)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert frame(GivenVocabulary(str(tmp_path / "tokenizer.json"), 5).load()) == around
    assert frame(GivenVocabulary("bytes", 5).load()) == ((259,), ()) and frame(GivenVocabulary("byt5", 5).load()) == (
        (),
        (),
    )


def saved(folder, network, params, contents, kind):
    """A folder of transformers with the network's parameters."""
    architecture = architecture_of(recipe(network, folder.parent / "none"))
    contents = {"config.json": export.as_json(architecture.config | {"tokenizer_class": kind}), **contents}
    export.write_folder(folder, contents, to_theirs(architecture.kind, params))


@pytest.mark.slow
def test_a_byt5_comes_in_and_goes_out_as_it_was(tmp_path, one_device):
    """Its tokenizer has no file; BOS is padding, as its decoder begins, and the mask comes first behind the bytes."""
    network = T5(**{**SIZE, "vocab_size": 384})
    params = parameters(network)
    saved(tmp_path / "a", network, params, {"tokenizer_config.json": b'{"tokenizer_class": "ByT5Tokenizer"}\n'}, None)
    import_folder(tmp_path / "a", tmp_path / "run", sentinels=124, say=lambda line: None)
    run = Run(tmp_path / "run")
    ids = run.recipe.tokens
    assert (ids.pad, ids.eos, ids.unk, ids.bos, ids.mask, ids.vocab_size) == (0, 1, 2, 0, 259, 384)
    assert run.recipe.dataset.load_vocabulary(print).encode("é") == [198, 172]
    np.testing.assert_array_equal(
        our_logits(run.recipe.networks["model"], run.params["model"], 1), our_logits(network, params, 1)
    )
    export.export(run, tmp_path / "b", say=lambda line: None)
    for file in (tmp_path / "a").iterdir():
        assert (tmp_path / "b" / file.name).read_bytes() == file.read_bytes(), file.name
    assert len(list((tmp_path / "b").iterdir())) == 3


@pytest.mark.slow
def test_an_id_0_that_is_text_goes_out_as_it_came_in(tmp_path, one_device):
    """Its row and padding's change places on the way in, and back on the way out, trained or not."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({each: place for place, each in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>", "<pad>", "<mask>"])
    network = type(NETWORKS["llama"])(**{**SIZE, "vocab_size": 260}, num_layers=1)
    params = parameters(network)
    saved(tmp_path / "a", network, params, {"tokenizer.json": tokenizer.to_str().encode()}, "PreTrainedTokenizerFast")
    import_folder(tmp_path / "a", tmp_path / "run", say=lambda line: None)
    run = Run(tmp_path / "run")
    vocabulary, ids = run.recipe.dataset.load_vocabulary(print), run.recipe.tokens
    assert (ids.pad, ids.bos, ids.eos, vocabulary.given.zero) == (0, 256, 257, 258)
    assert vocabulary.encode(alphabet[0]) == [258] and tokenizer.encode(alphabet[0]).ids == [0]
    export.export(run, tmp_path / "b", say=lambda line: None)
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes(), name
    there = export.in_ids_of(vocabulary.given, architecture_of(run.recipe)).config
    assert (there["pad_token_id"], there["bos_token_id"], there["eos_token_id"]) == (258, 256, 257)
    # The run is whole by itself: it may be moved, and a vocabulary that is not its own is refused.
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    again = Run(moved)
    assert again.recipe.tokens == ids and again.recipe.dataset.load_vocabulary(print).encode(
        ODD[1]
    ) == vocabulary.encode(ODD[1])
    kept = moved / "vocabulary" / "tokenizer.json"
    kept.write_text(kept.read_text() + "\n")
    with pytest.raises(UserError, match="holds a run with other vocabulary"):
        export.export(Run(moved), tmp_path / "c", say=lambda line: None)
