"""Supervised tasks: records of local files, T5's text-to-text form, classes, programs on one line."""

import ast
import json
from pathlib import Path

import pytest

from mixlm.data.dataset import Dataset
from mixlm.data.supervised import of_data
from mixlm.data.supervised.formats import escape, unescape
from mixlm.data.supervised.task import SupervisedTask, class_token
from mixlm.data.supervised.tasks import TASKS
from mixlm.data.tasks import TextFiles, TextTask
from mixlm.data.vocabulary import TrainedSentencePiece
from mixlm.errors import NotHere, UserError


@pytest.fixture(scope="module")
def pretraining(corpus):
    return Dataset(TextTask("text", TextFiles(str(corpus)), TrainedSentencePiece(112, sentinels=20)))


def written(folder: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return str(folder)


def texts(task: str, data: str, split: str, pretraining) -> list[tuple[str, str]]:
    return [(pair.inputs, pair.targets) for pair in SupervisedTask(task, pretraining, data).pairs(split)]


# The forms of T5's appendix D, each from a record as its data set has it.
FORMS = [
    ("cola", {"sentence": "John left.", "label": 1}, "cola sentence: John left.", "acceptable"),
    ("sst2", {"sentence": "a joy", "label": 0}, "sst2 sentence: a joy", "negative"),
    ("stsb", {"sentence1": "a", "sentence2": "b", "label": 3.25}, "stsb sentence1: a sentence2: b", "3.2"),
    (
        "mnli",
        {"premise": "p", "hypothesis": "h", "label": 2},
        "mnli hypothesis: h premise: p",
        "contradiction",
    ),
    ("qqp", {"question1": "a", "question2": "b", "is_duplicate": "1"}, "qqp question1: a question2: b", "duplicate"),
    ("boolq", {"passage": "p", "question": "q", "label": True}, "boolq passage: p question: q", "True"),
    (
        "multirc",
        {"question": "q", "answer": "a", "paragraph": "<b>Sent 1: </b>p<br>", "label": 0},
        "multirc question: q answer: a paragraph: Sent 1: p ",
        "False",
    ),
    ("superglue_rte", {"premise": "p", "hypothesis": "h", "label": 0}, "rte hypothesis: h premise: p", "entailment"),
    (
        "wsc",
        {"text": "Ann met Eve and she hid", "span1_text": "Eve", "span2_text": "she", "span2_index": 4, "label": 1},
        "wsc: Ann met Eve and *she* hid",
        "Eve",
    ),
    (
        "record",
        {"query": "@placeholder won", "entities": ["A", "B"], "passage": "x.\n@highlight\ny", "answers": ["B"]},
        "record query: @placeholder won entities: A, B passage: x. y",
        "B",
    ),
    ("squad", {"question": "q", "context": "c", "answers": {"text": ["x", "y"]}}, "question: q context: c", "x"),
    ("xsum", {"document": "d {x}", "summary": "s"}, "summarize: d {x}", "s"),
    ("wmt_ende", {"en": "It is.", "de": "Es ist so."}, "translate English to German: It is.", "Es ist so."),
]  # fmt: skip


@pytest.mark.parametrize(("task", "record", "inputs", "targets"), FORMS, ids=[form[0] for form in FORMS])
def test_a_record_becomes_the_text_of_t5(tmp_path, pretraining, task, record, inputs, targets):
    data = written(tmp_path, {"train.jsonl": json.dumps(record) + "\n", "dev.jsonl": json.dumps(record) + "\n"})
    assert (
        texts(task, data, "train", pretraining) == [(inputs, targets)] == texts(task, data, "validation", pretraining)
    )


def test_every_right_text_has_the_value_of_its_target(tmp_path, pretraining):
    for name, record, _, targets in FORMS:
        data = written(tmp_path / name, {"train.jsonl": json.dumps(record), "dev.jsonl": json.dumps(record)})
        task = SupervisedTask(name, pretraining, data, metric_fns=lambda names: (len,) * len(names))
        (judged,) = task.judged(pretraining.load_vocabulary(), "validation")
        criteria = task.criteria()
        value = criteria.postprocess_fn(targets, judged.example, is_target=True)
        said = criteria.postprocess_fn(targets, judged.example, is_target=False)
        group = value.pop("group", None) if isinstance(value, dict) else None
        assert said == value or said in value, name
        assert (group is not None) == (name == "multirc")
        assert len(criteria.metric_fns) == len(TASKS[name].metrics) >= 1


def test_local_files_are_read_by_the_words_of_their_names(tmp_path, pretraining):
    suite = {
        "CoLA/in_domain_train.tsv": "gj04\t1\t\tA cat sat.\ngj04\t0\t*\tA sat cat.\n",
        "CoLA/in_domain_dev.tsv": "gj04\t1\t\tIt rains.\n",
        "CoLA/out_of_domain_dev.tsv": "gj04\t0\t*\tRains it.\n",
        "SST-2/train.tsv": 'sentence\tlabel\na "joy\t1\n',
        "SST-2/dev.tsv": "sentence\tlabel\ndull\t0\n",
        "MNLI/train.tsv": "sentence1\tsentence2\tgold_label\np\th\tneutral\n",
        "MNLI/dev_matched.tsv": "sentence1\tsentence2\tgold_label\np\ti\tneutral\n",
        "MNLI/dev_mismatched.tsv": "sentence1\tsentence2\tgold_label\np\tj\tneutral\n",
        "babylm/rte.train.jsonl": '{"sentence1": "a", "sentence2": "b", "label": 0}\n',
        "babylm/rte.valid.jsonl": '{"sentence1": "c", "sentence2": "d", "label": 1}\n',
        "babylm/boolq.train.jsonl": '{"question": "q", "passage": "p", "label": 0}\n',
        "wmt/train.en": "one\n\ntwo\n",
        "wmt/train.de": "eins\n\nzwei\n",
        "wmt/dev.en": "three\n",
        "wmt/dev.de": "drei\n",
    }
    data = written(tmp_path, suite)
    found = {
        (task, split): [pair[1] for pair in texts(task, place, split, pretraining)]
        for task, place in (
            ("cola", data), ("sst2", data), ("mnli", data), ("rte", f"{data}/babylm"), ("wmt_ende", f"{data}/wmt")
        )
        for split in ("train", "validation")
    }  # fmt: skip
    assert found["cola", "train"] == ["acceptable", "unacceptable"] == found["cola", "validation"]
    assert texts("sst2", data, "train", pretraining) == [('sst2 sentence: a "joy', "positive")]
    assert texts("mnli", data, "validation", pretraining) == [("mnli hypothesis: i premise: p", "neutral")]
    assert found["rte", "train"] == ["entailment"] and found["rte", "validation"] == ["not_entailment"]
    assert found["wmt_ende", "train"] == ["eins", "", "zwei"] and found["wmt_ende", "validation"] == ["drei"]


def test_without_a_validation_file_records_are_held_out(tmp_path, pretraining):
    lines = [json.dumps({"sentence": f"number {n}", "label": n % 2}) for n in range(400)]
    data = written(tmp_path, {"all.jsonl": "\n".join(lines)})
    train, held = (texts("sst2", data, split, pretraining) for split in ("train", "validation"))
    assert len(train) + len(held) == 400 and not {*train} & {*held} and 5 <= len(held) <= 40
    mbpp = [{"task_id": n, "text": "t", "code": "x=1", "test_list": ["assert x"]} for n in (3, 20, 511, 600, 601, 974)]
    data = written(tmp_path / "m", {"mbpp.jsonl": "\n".join(map(json.dumps, mbpp))})
    assert [len(texts("mbpp", data, split, pretraining)) for split in ("train", "validation")] == [2, 2]


MISTAKES = {
    "label": (
        {"train.tsv": "sentence\tlabel\na\t7\n"},
        "Line 2 .*train.tsv' has the label '7', and the classes .* 0 neg",
    ),
    "no field": (
        {"train.tsv": "sentense\tlabel\na\t1\n"},
        "header of .* has no 'sentence', only 'sentense', 'label'. Did",
    ),
    "no key": ({"train.jsonl": '{"sentence": "a"}\n'}, "Line 1 .* has no 'label', only 'sentence'"),
    "columns": ({"train.tsv": "sentence\tlabel\na\n"}, "Line 2 .* has 1 columns instead of 2"),
    "no file": ({"a.jsonl": "{}"}, "no training file of 'sst2': name one train.tsv"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_records_is_one_sentence(tmp_path, pretraining, name):
    files, sentence = MISTAKES[name]
    with pytest.raises(UserError, match=sentence):
        texts("sst2", written(tmp_path, files | {"dev.jsonl": ""}), "train", pretraining)


def test_a_task_without_data_says_how_to_prepare_them(tmp_path, pretraining):
    task = SupervisedTask("boolq", pretraining, data_dir=str(tmp_path))
    with pytest.raises(
        NotHere, match=r"tfds.builder\('super_glue/boolq'\).download_and_prepare\(\).*passage, question"
    ):
        task.fingerprint()
    with pytest.raises(UserError, match=r"no task 'bolq'.* Did you mean 'boolq'"):
        _ = SupervisedTask("bolq", pretraining).name
    with pytest.raises(UserError, match="'squad' has no classes"):
        SupervisedTask("squad", pretraining, as_classes=True)


def test_lengths_hold_the_longest_example_and_steps_are_those_of_an_epoch(tmp_path, pretraining):
    lines = [json.dumps({"sentence": "the farmer sells a boat " * (1 + n % 3), "label": n % 2}) for n in range(30)]
    data = written(tmp_path / "d", {"train.jsonl": "\n".join(lines), "dev.jsonl": "\n".join(lines[:9])})
    tasks = [SupervisedTask("sst2", pretraining, data)]
    cache, longest = str(tmp_path / "cache"), {"inputs": 512, "targets": 64}
    prepared = Dataset(tasks[0], cache_dir=cache).stored(len)
    split = prepared.store.split("train")
    found = of_data.lengths(tasks, cache, longest)
    inputs, targets = (split.targets - split.offsets[:-1]).max(), (split.offsets[1:] - split.targets).max()
    assert 0 <= found["inputs"] - inputs < 8 and 0 <= found["targets"] - targets < 8
    assert of_data.lengths(tasks, cache, {"inputs": 16, "targets": 64})["inputs"] == 16
    with pytest.raises(UserError, match=r"A target of 'sst2' has \d+ tokens, and rows may have 4 of them"):
        of_data.lengths(tasks, cache, {"inputs": 16, "targets": 4})
    assert of_data.epoch_steps(tasks, cache, 8) == 4 and of_data.epoch_steps(tasks, cache, 8, 3) == 3
    assert of_data.validation_batches(tasks, cache, 8) == 2

    classes = SupervisedTask("sst2", pretraining, data, as_classes=True)
    vocabulary = pretraining.load_vocabulary()
    split = Dataset(classes, cache_dir=cache).stored(len).store.split("train")
    ends = split.tokens[split.offsets[1:] - 1].tolist()
    assert ends == [class_token(n % 2, vocabulary.token_ids) for n in range(30)]
    assert of_data.lengths([classes], cache, longest)["targets"] == 1
    (judged, *_) = classes.judged(vocabulary, "validation")
    for number in range(2):
        text = vocabulary.decode([class_token(number, vocabulary.token_ids)])
        assert classes.criteria().postprocess_fn(text, judged.example, is_target=False) == number


CODE = [
    "def f(x):\n  if x:\n     return [1,\n           2]\n  return 'a\\n'\n",
    "class A:\r\n\tdef g(self):\r\n\t\tfor i in range(3):\r\n\t\t\tprint(i)\r\n\t\treturn 1\r\nA()",
]


@pytest.mark.parametrize("code", CODE)
def test_a_program_survives_one_line_whose_blanks_are_normalised(code):
    back = unescape(" ".join(escape(code).split()))
    assert ast.dump(ast.parse(back)) == ast.dump(ast.parse(code))
