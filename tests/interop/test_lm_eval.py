"""lm-evaluation-harness scores runs as mixlm's own scorer and a slow loop do, in every mode of their networks."""

import json

import jax
import numpy as np
import pytest
from support.slow_scores import SlowScores

import mixlm
from mixlm.cli import lm_eval as command
from mixlm.evaluation.modes import modes_of
from mixlm.evaluation.questions import noise_of
from mixlm.evaluation.sentences import Sentences
from mixlm.interop.lm_eval.model import model_class, register

# The libraries of the harness warn of their own.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

SETTINGS = {
    "TRAIN_STEPS": 4,
    "VOCAB_SIZE": 112,
    "BATCH_SIZE": 8,
    "EVAL_BATCHES": 1,
    "VALIDATION": (),
    "LOG_PERIOD": 1,
    "EMB_DIM": 16,
    "TokenIds.sentinels": 20,
    "TrainedSentencePiece.sentinels": 20,
}
RUNS = {
    "dual": {"TASK_FEATURE_LENGTHS": {"targets": 32}, "Llama.num_layers": 1},
    "antlm": {"TASK_FEATURE_LENGTHS": {"targets": 32}, "Llama.num_layers": 1, "UNIQUE_TOKENS": None},
    "ar2diff": {"TASK_FEATURE_LENGTHS": {"targets": 32}, "TAU": 2, "DecoderOnly.num_layers": 1},
    "spactor": {
        "TAU": 2,
        "TASK_FEATURE_LENGTHS": {"inputs": 32, "targets": 8},
        "EncoderDecoder.num_encoder_layers": 1,
        "EncoderDecoder.num_decoder_layers": 1,
    },
}
CHOICES = [
    {"question": "The farmer sells", "answers": ["a boat", "the bread in the harbour"], "right": 0},
    {"question": "", "answers": ["A sailor paints.", "Paints sailor a."], "right": 0},
]
TEXTS = [
    {"text": "The farmer sells a boat in the harbour. Every teacher paints the bread near the mill on Sundays."},
    {"text": "The baker."},
]
SAID = [{"prompt": "The farmer sells", "text": "a boat"}, {"prompt": "Every teacher", "text": "hides"}]
TASKS = {
    "choices": (CHOICES, {
        "output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_choice": "{{answers}}",
        "doc_to_target": "{{right}}",
    }),
    "texts": (TEXTS, {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}"}),
    "said": (SAID, {
        "output_type": "generate_until", "doc_to_text": "{{prompt}}", "doc_to_target": "{{text}}",
        "generation_kwargs": {"until": ["."], "max_gen_toks": 4, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_device():
    devices = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: devices)
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module", params=RUNS)
def run(request, corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    settings = SETTINGS | RUNS[request.param] | {"MODEL_DIR": str(folder)}
    return mixlm.train(mixlm.load_recipe(f"{request.param}.gin", text=corpus, **settings), lambda line: None)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder of task files over JSON lines that lie beside them."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, (records, config) in TASKS.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        files = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / f"{name}.jsonl")}}}
        # JSON is YAML.
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name, "test_split": "test", **files, **config}))
    return folder


@pytest.fixture(scope="module")
def answered(run, tasks):
    """What the harness asks and is answered in every mode: {mode: {task: [(arguments, answers), ...]}}."""
    pytest.importorskip("lm_eval")
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks))
    module = run.recipe.networks["model"]
    modes = modes_of(module, run.recipe.tokens, 4, 0, answer=True, words=True)
    found = {}
    for name, mode in modes.items():
        model = model_class()(run=str(run.folder), mode=name, samples=4, max_length=24)
        samples = simple_evaluate(model=model, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0)["samples"]
        found[name] = (mode, model, samples)
    return found


def test_an_answer_has_the_score_of_a_slow_loop_and_of_our_scorer(run, answered):
    vocabulary = run.recipe.dataset.prepare(lambda line: None).vocabulary
    slow = SlowScores(run.recipe.networks["model"], run.params["model"], run.recipe.tokens)
    for mode, model, samples in answered.values():
        for sample in samples["choices"]:
            noise = noise_of(f"choices {sample['doc_id']}")
            for (question, answer), [(score, likeliest)] in zip(sample["arguments"], sample["resps"]):
                x, prefix = vocabulary.encode(question + answer), len(vocabulary.encode(question))
                pieces = vocabulary.pieces(x)
                words = np.cumsum([piece.startswith("\u2581") for piece in pieces]).tolist()
                wanted = slow.answer(mode, x, prefix, words, noise)
                np.testing.assert_allclose(score, wanted[0], atol=1e-4, err_msg=model.mode_name)
                assert likeliest == wanted[1]
                one = Sentences([x], np.asarray([prefix]), np.asarray([noise]), None, [words])
                np.testing.assert_allclose(score, model.loaded.scorer(mode, one).total[0], atol=1e-4)


def test_a_document_has_the_score_of_its_windows(run, answered):
    vocabulary = run.recipe.dataset.prepare(lambda line: None).vocabulary
    slow = SlowScores(run.recipe.networks["model"], run.params["model"], run.recipe.tokens)
    for mode, model, samples in answered.values():
        for sample in samples["texts"]:
            x, wanted, ours = vocabulary.encode(sample["doc"]["text"]), 0.0, 0.0
            for start in range(0, len(x), 24):
                end = min(start + 24, len(x))
                first = max(end - 24, 0)
                words = np.cumsum([p.startswith("\u2581") for p in vocabulary.pieces(x[first:end])]).tolist()
                noise = noise_of(f"document {sample['doc_id']}")
                before = x[first - 1] if first and run.recipe.before else None
                wanted += slow.answer(mode, x[first:end], start - first, words, noise, before)[0]
                prefix, previous = np.asarray([start - first]), np.asarray([before or 0])
                one = Sentences([x[first:end]], prefix, np.asarray([noise]), previous, [words])
                ours += model.loaded.scorer(mode, one).total[0]
            assert len(x) > 24 or sample["doc_id"]
            np.testing.assert_allclose(sample["resps"][0][0], wanted, atol=3e-4, err_msg=model.mode_name)
            np.testing.assert_allclose(sample["resps"][0][0], ours, atol=1e-4, err_msg=model.mode_name)


def test_texts_end_before_their_stop_string(answered):
    for _, _, samples in answered.values():
        assert all(isinstance(text, str) and "." not in text for each in samples["said"] for [text] in each["resps"])


def test_a_causal_text_is_that_of_mixlm_decode(run, answered):
    if "prefix" not in answered or "pll_shifted" not in answered:
        pytest.skip("an encoder-decoder fills spans")
    wanted = mixlm.decode(run, [each["prompt"] for each in SAID], how="autoregressive", max_tokens=4)
    found = [sample["resps"][0][0] for sample in answered["causal"][2]["said"]]
    assert found == [each.text.partition(".")[0] for each in wanted]


def test_the_command_says_what_a_template_lacks(run, tasks, monkeypatch):
    pytest.importorskip("lm_eval")
    broken = json.loads((tasks / "choices.yaml").read_text()) | {"task": "broken", "doc_to_text": "{{query}}"}
    (tasks / "broken.yaml").write_text(json.dumps(broken))
    given = ["--model_args", f"run={run.folder}", "--tasks", "broken", "--include_path", str(tasks)]
    monkeypatch.setattr("sys.argv", ["mixlm", *given])
    with pytest.raises(mixlm.UserError, match=r"'query' is undefined.* A record has question, answers, right"):
        command.main()


def test_a_task_that_there_is_not_is_one_sentence(tasks, monkeypatch):
    pytest.importorskip("lm_eval")
    monkeypatch.setattr("sys.argv", ["mixlm", "--tasks", "choixes", "--include_path", str(tasks)])
    with pytest.raises(mixlm.UserError, match=r"choixes"):
        command.main()


NINE = {
    "arc_easy": 4, "arc_challenge": 5, "dual_blimp": 2, "commonsense_qa": 5, "hellaswag": 4, "dual_mmlu": 4,
    "openbookqa": 4, "piqa": 2, "social_iqa": 3,
}  # fmt: skip


def test_the_nine_tasks_of_dual_are_one_group_normalised_by_chance(tmp_path):
    """Local tasks stand in for the nine, with as many answers as each has; the harness's dummy answers them."""
    pytest.importorskip("lm_eval")
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    for name, answers in NINE.items():
        records = [{"question": "x", "answers": list("abcde"[:answers]), "right": n % answers} for n in range(12)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        files = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / f"{name}.jsonl")}}}
        config = {"task": name, "test_split": "test", **files, **TASKS["choices"][1]}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(config))
    manager = TaskManager(include_path=[str(command.TASKS), str(tmp_path)])
    register()  # beside which the harness's own models stay
    found = simple_evaluate(model="dummy", tasks=["dual_zero_shot"], task_manager=manager, bootstrap_iters=0)
    scores = {name: found["results"][name]["score,none"] for name in NINE}
    for name, answers in NINE.items():
        accuracy = found["results"][name]["acc,none"]
        assert scores[name] == pytest.approx(100 * (accuracy - 1 / answers) / (1 - 1 / answers))
    assert found["groups"]["dual_zero_shot"]["score,none"] == pytest.approx(np.mean(list(scores.values())))


def test_scores_are_normalised_by_the_chance_of_each_question():
    pytest.importorskip("lm_eval")
    from mixlm.interop.lm_eval.chance import normalised

    assert normalised([(1.0, 0.25), (0.0, 0.25), (1.0, 0.5), (0.0, 0.2)]) == pytest.approx(
        100 * (0.5 - 0.3) / (1 - 0.3)
    )
    assert normalised([(1.0, 0.5)]) == 100 and normalised([(0.25, 0.25)]) == 0
