"""What transformers saved goes on in mixlm: ten steps of AR2Diff's adaptation, and ten of SpacTor."""

import json

import numpy as np
import pytest
import support.hf_networks  # noqa: F401 (nothing is downloaded)
from support.runs import DEVICES

from mixlm.api.functions import load_recipe, train
from mixlm.interop.hf.imports import import_folder

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]

SMALL = {
    "TRAIN_STEPS": 10,
    "BATCH_SIZE": 8,
    "LOG_PERIOD": 1,
    "EVAL_BATCHES": 1,
    "EVAL_PERIOD": 10,
    "CHECKPOINT_PERIOD": 10,
    "WARMUP_STEPS": 0,
}


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr("jax.devices", lambda *_: DEVICES[:1])


def byte_level_bpe(folder, corpus, special):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([path.read_text() for path in sorted(corpus.iterdir())], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))


def went_on(imported, recipe):
    """The run's metrics of ten steps, which began with the import's parameters and moved them."""
    run = train(recipe)
    rows = [row for row in run.metrics.rows if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert json.loads((run.folder / "recipe.json").read_text())["began"] == f"{imported.folder}@0"
    before, after = imported.params["model"], run.params["model"]
    assert not np.array_equal(before["token_embedder"]["embedding"], after["token_embedder"]["embedding"])
    return rows


def test_ar2diff_goes_on_from_a_llama(tmp_path, corpus):
    (tmp_path / "llama").mkdir()
    byte_level_bpe(tmp_path / "llama", corpus, ["<unk>", "<s>", "</s>"])
    config = transformers.LlamaConfig(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    imported = import_folder(tmp_path / "llama", tmp_path / "run", say=lambda line: None)
    rows = went_on(
        imported,
        load_recipe(
            "ar2diff.gin", tmp_path / "run" / "network.gin", text=corpus, **SMALL, TAU=0, LEARNING_RATE=0.05,
            INIT_FROM=str(tmp_path / "run"), MODEL_DIR=str(tmp_path / "diffusion"),
            TASK_FEATURE_LENGTHS={"targets": 32},
        ),
    )  # fmt: skip
    assert {row["stage"] for row in rows} == {"unrolled_diffusion"} and rows[-1]["loss"] < rows[0]["loss"]


def test_spactor_goes_on_from_a_t5_1_1(tmp_path, corpus):
    (tmp_path / "t5").mkdir()
    special = ["<pad>", "</s>", "<unk>"]
    byte_level_bpe(tmp_path / "t5", corpus, special)
    config = transformers.T5Config(
        vocab_size=384, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )  # fmt: skip
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    imported = import_folder(tmp_path / "t5", tmp_path / "run", sentinels=20, say=lambda line: None)
    rows = went_on(
        imported,
        load_recipe(
            "spactor.gin", tmp_path / "run" / "network.gin", text=corpus, **SMALL, TAU=5,
            INIT_FROM=str(tmp_path / "run"), MODEL_DIR=str(tmp_path / "spactor"),
            TASK_FEATURE_LENGTHS={"inputs": 64, "targets": 14},
        ),
    )  # fmt: skip
    assert [row["stage"] for row in rows] == ["spactor"] * 5 + ["span_corruption"] * 5
