"""A supervised run is judged by its task's own metrics: while it trains, afterwards, and as seqio's Evaluator does."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

from mixlm.checkpoints.load import load_params
from mixlm.data.dataset import Dataset
from mixlm.data.judged import TaskMetrics
from mixlm.data.pair_task import PairTask
from mixlm.data.quiet_tensorflow import import_seqio
from mixlm.data.seqio_task import SeqioTask
from mixlm.data.sources.base import digest
from mixlm.data.vocabulary import TrainedSentencePiece
from mixlm.errors import UserError
from mixlm.evaluation.tasks import run as tasks
from mixlm.evaluation.tasks.answers import Label
from mixlm.evaluation.tasks.metrics import accuracy, matthews
from mixlm.models.t5 import EncoderDecoder
from mixlm.objectives.curriculum import Curriculum, Stage
from mixlm.objectives.seq2seq import Seq2Seq
from mixlm.optim.adamw import AdamW
from mixlm.optim.optimizer import Optimizer
from mixlm.recipe import Recipe
from mixlm.reports.metrics import read
from mixlm.schedules import Constant
from mixlm.tokens import TokenIds
from mixlm.training.run import train

WORDS = ("harbour", "mill", "judge", "sailor")
OTHERS = (
    "teacher remembers letters grain captain senator neighbour farmer describes repairs bread boat table horse dawn"
)
IDS = TokenIds(vocab_size=40, mask=4, bos=3, sentinels=5)
LENGTHS = {"inputs": 32, "targets": 8}
LABEL = Label(("low", "high"))

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Halves:
    """A word, and its class."""

    def pairs(self, split):
        rng = np.random.default_rng(len(split))
        for _ in range(400 if split == "train" else 60):
            chosen = int(rng.integers(0, len(WORDS)))
            yield WORDS[chosen], LABEL.classes[chosen % 2]

    def documents(self, split):
        yield OTHERS  # of which the vocabulary learns more pieces
        yield from (f"{inputs} {targets}" for inputs, targets in self.pairs(split))

    def fingerprint(self):
        return digest("halves")


def recipe(folder, task=None, **changes):
    made = PairTask("halves", Halves(), TrainedSentencePiece(40, sentinels=5), Halves(), (accuracy, matthews), LABEL)
    settings = {
        "name": "halves",
        "networks": {
            "model": EncoderDecoder(
                vocab_size=40, emb_dim=32, num_heads=2, head_dim=16, mlp_dim=64, num_encoder_layers=1,
                num_decoder_layers=1,
            )
        },
        "curriculum": Curriculum((Stage(0, Seq2Seq(IDS, LENGTHS)),)),
        "dataset": Dataset(task or made, pairs=LENGTHS, cache_dir=str(folder.parent / "cache")),
        "tokens": IDS,
        "optimizer": Optimizer(AdamW(), Constant(0.001)),
        "train_steps": 120,
        "batch_size": 16,
        "lengths": LENGTHS,
        "model_dir": str(folder),
        "eval_period": 10,
        "eval_batches": 1,
        "checkpoint_period": 10,
        "keep": 1,
        "best_metric": "halves/accuracy",
    }  # fmt: skip
    return Recipe(**(settings | changes))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = recipe(tmp_path_factory.mktemp("run") / "halves")
    train(made, lambda line: None)
    return made


def test_the_metric_rises_and_the_best_checkpoint_is_the_highest(run):
    name = "validation/halves/accuracy"
    found = {line["step"]: line[name] for line in read(run.folder) if name in line}
    assert sorted(found) == list(range(10, 121, 10))
    assert found[10] < 90 and max(found.values()) > 95, found
    best = load_params(replace(run, model_dir=f"{run.folder}@best"))[0]
    assert found[best] == max(found.values())
    for step in found:
        lines = (run.folder / "predictions" / f"step_{step}" / "halves.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        right = np.mean([record["prediction"] == record["target"] for record in records])
        assert len(records) == 60 and 100 * right == pytest.approx(found[step])
        assert [record["inputs"] for record in records] == [inputs for inputs, _ in Halves().pairs("validation")]


def test_afterwards_the_figures_are_those_of_the_last_validation(run):
    prepared = tasks.prepare(run, say=lambda line: None)
    verdicts = tasks.evaluate(prepared)
    said = tasks.write(prepared, verdicts)
    last = read(run.folder)[-1]
    figures = tasks.figures_of(verdicts)
    assert set(figures) == {"halves/accuracy", "halves/matthews"}
    assert figures == {name: pytest.approx(last[f"validation/{name}"]) for name in figures}
    assert "tasks.json, halves.jsonl" in said
    written = json.loads((run.folder / "evaluation" / "latest" / "tasks.json").read_text())
    assert written["step"] == 120 and set(written["tasks"]["halves"]["figures"]) == {"accuracy", "matthews"}
    fewer = tasks.prepare(run, 7, lambda line: None)
    assert [len(task.examples) for task in fewer.tasks] == [7]


def test_a_mistake_is_said_before_the_run_begins(tmp_path):
    reported = "which reports seq2seq, halves/accuracy, halves/matthews. Did you mean 'halves/accuracy'"
    with pytest.raises(UserError, match=reported):
        train(recipe(tmp_path / "a", best_metric="halves/acuracy"), lambda line: None)
    with pytest.raises(UserError, match="There is no decoding 'gready'"):
        train(recipe(tmp_path / "b", metrics=TaskMetrics(decoding="gready")), lambda line: None)
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()
    bare = replace(recipe(tmp_path).dataset.task, metric_fns=())
    with pytest.raises(UserError, match=r"The task 'halves' has no metrics: give a Task of seqio's registry"):
        tasks.prepare(recipe(tmp_path, bare))


REGISTERED = """
import seqio, tensorflow as tf
from mixlm.evaluation.tasks.metrics import accuracy
from mixlm.evaluation.tasks.answers import Label

vocabulary = seqio.SentencePieceVocabulary({model!r}, extra_ids=0)
pairs = {pairs!r}

def dataset(split, shuffle_files=False, seed=None):
    inputs, targets = zip(*pairs[split])
    return tf.data.Dataset.from_tensor_slices({{"inputs": list(inputs), "targets": list(targets)}})

def words(targets, predictions):
    return {{"words": seqio.metrics.Scalar(float(sum(len(each) for each in predictions)))}}

def mean_score(targets, scores):
    return {{"mean_score": float(scores.mean())}}

seqio.TaskRegistry.add(
    "registered_halves",
    source=seqio.FunctionDataSource(dataset, splits=("train", "validation")),
    preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
    output_features={{
        "inputs": seqio.Feature(vocabulary, add_eos=True), "targets": seqio.Feature(vocabulary, add_eos=True),
    }},
    metric_fns=[mean_score, words, accuracy],
    postprocess_fn=lambda text, example=None, is_target=False: text.strip(),
)
"""


def test_a_registered_task_is_judged_as_seqio_s_evaluator_judges_it(run, tmp_path):
    """The same outputs of the network, in the hands of seqio.Evaluator: the same figures, targets and predictions."""
    model = next((run.dataset.cache / "vocabularies").glob("*.model"))
    pairs = {split: list(Halves().pairs(split))[:40] for split in ("train", "validation")}
    module = tmp_path / "registered_halves.py"
    module.write_text(REGISTERED.format(model=str(model), pairs=pairs))
    task = SeqioTask("registered_halves", str(module), sentinels=5, mask=4, bos=3)
    made = recipe(tmp_path / "run", task, train_steps=20, best_metric=None)
    train(made, lambda line: None)
    prepared = tasks.prepare(made, say=lambda line: None)
    verdict = tasks.evaluate(prepared)["registered_halves"]

    seqio = import_seqio()
    evaluator = seqio.Evaluator(
        "registered_halves", seqio.EncDecFeatureConverter(pack=False), sequence_length=LENGTHS,
        use_memory_cache=False,
    )  # fmt: skip
    inputs = [each.inputs for each in prepared.tasks[0].examples]
    targets = [each.targets for each in prepared.tasks[0].examples]

    def predict(dataset):
        padded = np.zeros((len(inputs), LENGTHS["targets"]), np.int32)
        for row, (said,) in zip(padded, prepared.model.predictions(inputs)):
            row[: len(said)] = said
        return [(number, padded[number]) for number, _ in dataset.as_numpy_iterator()]

    def score(dataset):
        found = prepared.model.scores(inputs, targets)
        return [(number, found[number]) for number, _ in dataset.as_numpy_iterator()]

    future, _ = evaluator.evaluate(compute_metrics=True, predict_fn=predict, score_fn=score)
    found = future.result()["registered_halves"]
    wanted = {name: float(getattr(value, "value", value)) for name, value in found.items()}
    assert verdict.figures == {name: pytest.approx(value) for name, value in wanted.items()}
    assert set(wanted) == {"accuracy", "words", "mean_score"}
