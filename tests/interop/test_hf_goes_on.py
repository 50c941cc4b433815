"""What transformers saved goes on in mixlm: scored, decoded, fine-tuned, adapted by AR2Diff, and trained by SpacTor."""

import json

import numpy as np
import pytest
from support.hf_networks import our_logits, their_logits
from support.runs import DEVICES

from mixlm.api.functions import decode, load_recipe, train
from mixlm.api.judge import judge
from mixlm.interop.hf.export import export
from mixlm.interop.hf.imports import import_folder

torch = pytest.importorskip("torch")
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
}


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr("jax.devices", lambda *_: DEVICES[:1])


def llama(folder, corpus):
    """A model of transformers, and its tokenizer, which is in the folder."""
    folder.mkdir()
    config = transformers.LlamaConfig(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval(), byte_level_bpe(folder, corpus, ["<unk>", "<s>", "</s>"])


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
    return tokenizer


def imported_alike(model, folder, out, **options):
    """The import of what transformers saves, with the logits that its tokens have there."""
    model.save_pretrained(folder)
    imported = import_folder(folder, out, say=lambda line: None, **options)
    ours = our_logits(imported.recipe.networks["model"], imported.params["model"], 1)[..., : model.config.vocab_size]
    np.testing.assert_allclose(ours, their_logits(model), rtol=0, atol=1e-5 * max(1.0, np.abs(ours).max()))
    return imported


def test_a_llama_is_scored_and_decoded_as_transformers_does(tmp_path, corpus):
    """Tokens that were appended have the mean of the rows, and so the mean of the logits."""
    model, tokenizer = llama(tmp_path / "llama", corpus)
    imported_alike(model, tmp_path / "llama", tmp_path / "run")
    recipe = load_recipe(
        "interop/decoder.gin", tmp_path / "run" / "network.gin", text=corpus, MODEL_DIR=str(tmp_path / "run"),
        TASK_FEATURE_LENGTHS={"targets": 32},
    )  # fmt: skip
    good, bad = "The farmer sells two letters.", "The farmer letters two sells."
    (judged,) = judge(recipe, good, bad, "causal")
    appended = recipe.networks["model"].vocab_size - model.config.vocab_size
    assert appended > 0
    for sentence, score in ((good, judged["good"]), (bad, judged["bad"])):
        ids = [1, *tokenizer.encode(sentence).ids]
        logits = model(torch.tensor([ids])).logits[0].detach()
        logits = torch.cat([logits, logits.mean(-1, keepdim=True).expand(-1, appended)], -1)
        log_p = torch.log_softmax(logits, -1)
        assert score == pytest.approx(sum(log_p[place, token].item() for place, token in enumerate(ids[1:])), rel=1e-5)
    (said,) = decode(recipe, good, "autoregressive", max_tokens=4, temperature=0.0)
    ids = torch.tensor([[1, *tokenizer.encode(good).ids]])
    greedy = model.generate(ids, max_new_tokens=4, do_sample=False)[0, ids.shape[1] :].tolist()
    assert list(said.tokens[: len(greedy)]) == greedy and len(greedy) > 1


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
    model, _ = llama(tmp_path / "llama", corpus)
    model.save_pretrained(tmp_path / "llama")
    imported = import_folder(tmp_path / "llama", tmp_path / "run", say=lambda line: None)
    rows = went_on(
        imported,
        load_recipe(
            "ar2diff.gin", tmp_path / "run" / "network.gin", text=corpus, **SMALL, TAU=0, WARMUP_STEPS=0,
            LEARNING_RATE=0.05, INIT_FROM=str(tmp_path / "run"), MODEL_DIR=str(tmp_path / "diffusion"),
            TASK_FEATURE_LENGTHS={"targets": 32},
        ),
    )  # fmt: skip
    assert {row["stage"] for row in rows} == {"unrolled_diffusion"} and rows[-1]["loss"] < rows[0]["loss"]


def test_a_llama_is_fine_tuned(tmp_path, corpus):
    model, _ = llama(tmp_path / "llama", corpus)
    model.save_pretrained(tmp_path / "llama")
    imported = import_folder(tmp_path / "llama", tmp_path / "run", say=lambda line: None)
    (tmp_path / "sst2").mkdir()
    examples = [json.dumps({"sentence": "the farmer sells a boat", "label": number % 2}) for number in range(8)]
    for split in ("train", "dev"):
        (tmp_path / "sst2" / f"{split}.jsonl").write_text("\n".join(examples))
    recipe = load_recipe(
        "finetune/sst2.gin", INIT_FROM=str(imported.folder), DATA=tmp_path / "sst2", MODEL_DIR=str(tmp_path / "tuned"),
        EPOCHS=None, BEST_METRIC="seq2seq", METRIC_EXAMPLES=0, **SMALL,
    )  # fmt: skip
    rows = went_on(imported, recipe)
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_spactor_goes_on_from_a_t5_1_1(tmp_path, corpus):
    (tmp_path / "t5").mkdir()
    special = ["<pad>", "</s>", "<unk>"]
    byte_level_bpe(tmp_path / "t5", corpus, special)
    config = transformers.T5Config(
        vocab_size=384, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.T5ForConditionalGeneration(config).eval()
    imported = imported_alike(model, tmp_path / "t5", tmp_path / "run", sentinels=20)
    again = export(imported, tmp_path / "again", say=lambda line: None)
    for name in ("config.json", "model.safetensors"):  # to tokenizer.json sentinels were appended
        assert (again / name).read_bytes() == (tmp_path / "t5" / name).read_bytes(), name
    rows = went_on(
        imported,
        load_recipe(
            "spactor.gin", tmp_path / "run" / "network.gin", text=corpus, **SMALL, WARMUP_STEPS=0, TAU=5,
            INIT_FROM=str(tmp_path / "run"), MODEL_DIR=str(tmp_path / "spactor"),
            TASK_FEATURE_LENGTHS={"inputs": 64, "targets": 14},
        ),
    )  # fmt: skip
    assert [row["stage"] for row in rows] == ["spactor"] * 5 + ["span_corruption"] * 5
