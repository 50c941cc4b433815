"""A task is judged as seqio's Evaluator judges it, each prediction beside its own target, in batches of any size."""

import json
from dataclasses import dataclass, replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.data.judged import Criteria, Judged, TaskMetrics
from mixlm.decoding.autoregressive import Decoded, decoder_prompts
from mixlm.errors import UserError
from mixlm.evaluation.tasks import model as models
from mixlm.evaluation.tasks.examples import too_long, write_records
from mixlm.evaluation.tasks.judge import Examples, judge, reported
from mixlm.evaluation.tasks.metrics import accuracy
from mixlm.evaluation.tasks.programs import NotPermitted
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.objectives.curriculum import Curriculum, Stage
from mixlm.objectives.pairs import PairDiffusion, PairLM
from mixlm.parallel.mesh import Partitioning
from mixlm.recipe import Recipe
from mixlm.tokens import TokenIds

IDS = TokenIds(vocab_size=60, mask=4, bos=3, sentinels=5)
LENGTHS = {"inputs": 20, "targets": 8}


class Words:
    """A vocabulary whose token 7 is the word w7."""

    def decode(self, tokens):
        return " ".join(f"w{token}" for token in tokens if token not in (0, IDS.eos))


@dataclass(frozen=True)
class Echo:
    """Says the last two tokens of each prompt and EOS."""

    def read(self, module, rows, ids):
        return decoder_prompts(rows)

    def __call__(self, module, params, prompt, keys, length, ids):
        said = jnp.zeros((len(keys), length), jnp.int32)
        return Decoded(
            said.at[:, :2].set(prompt.decoder_input_tokens[:, -2:]).at[:, 2].set(ids.eos), jnp.full(len(keys), 3)
        )


def trained(objective, networks, params, **changes):
    """The model of a recipe of one stage."""
    recipe = object.__new__(Recipe)
    fields = {"networks": networks, "lengths": LENGTHS, "tokens": IDS, "train_steps": 1, "validation": ()}
    for name, value in (fields | {"curriculum": Curriculum((Stage(0, objective),))}).items():
        object.__setattr__(recipe, name, value)
    return models.TrainedModel(recipe, params, TaskMetrics(**changes), Partitioning().layout())


@settings(max_examples=5, deadline=None)
@given(
    st.lists(st.lists(st.integers(5, 50), min_size=2, max_size=18), min_size=1, max_size=9),
    st.integers(1, 5),
    st.integers(1, 2),
)
def test_each_example_gets_its_own_answers_in_any_batches(inputs, batch, samples):
    made = trained(PairLM(IDS, LENGTHS), {"model": None}, {"model": None}, batch=batch, samples=samples)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models.Decoding, "strategy", lambda decoding, recipe: Echo())
        assert made.predictions(inputs) == [[row[-2:]] * samples for row in inputs]


def test_a_score_is_the_log_likelihood_of_the_whole_target():
    """Against one forward for each pair, unpadded and alone: BOS, inputs, targets."""
    module = DecoderOnly(vocab_size=60, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32, num_layers=1)
    objective = PairLM(IDS, LENGTHS)
    params = module.init(jax.random.key(0), *module.inputs())["params"]
    params = jax.tree.map(
        lambda leaf: leaf + 0.3 * jnp.cos(jnp.arange(leaf.size).reshape(leaf.shape)), meta.unbox(params)
    )
    rng = np.random.default_rng(0)
    pairs = [
        (rng.integers(5, 50, size=i).tolist(), [*rng.integers(5, 50, size=t).tolist(), IDS.eos])
        for i, t in ((3, 2), (20, 5), (4, 7))
    ]
    found = trained(objective, {"model": module}, {"model": params}, batch=2).scores(*map(list, zip(*pairs)))
    for (inputs, targets), score in zip(pairs, found):
        row = np.asarray([[IDS.bos, *inputs, *targets]])
        example = replace(decoder_prompts([[0]]), **_example(row))
        log_p = jax.nn.log_softmax(module.apply({"params": params}, example), axis=-1)[0]
        wanted = sum(float(log_p[len(inputs) + place, token]) for place, token in enumerate(targets))
        assert score == pytest.approx(wanted, abs=1e-4)


def _example(row):
    """A causal forward over tokens and nothing else."""
    tokens = jnp.asarray(row[:, :-1])
    return {
        "decoder_input_tokens": tokens,
        "decoder_target_tokens": tokens,
        "decoder_loss_weights": jnp.ones(tokens.shape),
        "decoder_mask_ar": jnp.ones_like(tokens),
        "decoder_segment_ids": jnp.ones_like(tokens),
    }


def test_a_diffusion_gives_no_likelihood():
    made = trained(PairDiffusion(IDS, LENGTHS), {"model": None}, {"model": None})
    with pytest.raises(UserError, match="'pair_diffusion' gives targets no likelihood: choose metrics of predictions"):
        made.scores([[5]], [[6]])


class Says:
    """A model that says the inputs backwards, with the number of its inputs as score."""

    def predictions(self, inputs):
        return [[list(reversed(each))] for each in inputs]

    def scores(self, inputs, targets):
        return np.asarray([float(len(each) + len(said)) for each, said in zip(inputs, targets)])


def of(*metric_fns, post=None, examples=None):
    examples = examples or [
        Judged((5, 6), (6, 5, 1), {"inputs_pretokenized": b"in", "targets_pretokenized": b"w6 w5"}),
        Judged((7,), (9, 1), {"note": "second"}),
    ]
    return Examples("made", Criteria(metric_fns, post), examples)


def test_metrics_get_what_their_parameters_name_after_postprocessing():
    seen = {}

    def post(text, example, is_target):
        return (text, example.get("note"), is_target)

    def of_predictions(targets, predictions, unused=1):
        seen["predictions"] = (targets, predictions)
        return {"right": sum(a[0] == b[0] for a, b in zip(targets, predictions))}

    def of_scores(targets, scores):
        return {"scores": sum(scores)}

    def of_both(targets, predictions, aux_values):
        return {"aux": aux_values["scores"][0], "words": SimpleNamespace(textdata="no number")}

    verdict = judge(of(of_predictions, of_scores, of_both, post=post), Says(), Words())
    assert verdict.figures == {"right": 1.0, "scores": 2 + 3 + 1 + 2, "aux": 4.0}
    assert seen["predictions"] == (
        [("w6 w5", None, True), ("w9", "second", True)],
        [("w6 w5", None, False), ("w7", "second", False)],
    )
    assert verdict.records[0] == {
        "inputs": "in", "targets": "w6 w5", "target": ("w6 w5", None, True), "output": "w6 w5",
        "prediction": ("w6 w5", None, False), "score": 5.0,
    }  # fmt: skip


def test_records_are_lines_of_json(tmp_path):
    post = {"w6 w5": np.float32(1.5), "w9": float("nan"), "w7": b"bytes"}
    verdict = judge(of(accuracy, post=lambda text, **_: post[text]), Says(), Words())
    write_records(tmp_path / "made.jsonl", verdict)
    lines = [json.loads(line) for line in (tmp_path / "made.jsonl").read_text().splitlines()]
    assert [line["target"] for line in lines] == [1.5, None] and lines[1]["prediction"] == "bytes"
    assert [line["output"] for line in lines] == ["w6 w5", "w7"]


def test_what_cannot_be_judged_is_said_in_one_sentence():
    def strange(predictions, truth):
        return {}

    def broken(targets, predictions):
        return {"accuracy": 1 / 0}

    with pytest.raises(
        UserError, match=r"The metric strange of the task 'made' has the parameters \('predictions', 'tr"
    ):
        judge(of(strange), Says(), Words())
    with pytest.raises(
        UserError, match="The metric broken of the task 'made' failed: ZeroDivisionError: division by z"
    ):
        judge(of(broken), Says(), Words())
    with pytest.raises(
        UserError, match="Two metrics of the task 'made' report 'accuracy', so one would hide the other"
    ):
        judge(of(accuracy, accuracy), Says(), Words())
    (said,) = too_long([of(accuracy)], {"targets": 2})
    assert said.startswith("made: 1 of 2 targets are longer than the 2 tokens of TASK_FEATURE_LENGTHS['targets'], and")
    assert too_long([of(accuracy)], {"targets": 3}) == []


def test_programs_that_may_not_run_are_left_out_and_the_others_stand():
    def programs(targets, predictions):
        raise NotPermitted("Generated programs are run only where --run_generated_code is given.")

    task = of(programs, accuracy)
    verdict = judge(task, Says(), Words())
    assert verdict.figures == {"accuracy": 50.0}
    assert verdict.left_out == [
        "made: programs is left out. Generated programs are run only where --run_generated_code is given."
    ]
    assert reported(task, Words()) is None and reported(of(accuracy), Words()) == ["accuracy"]
