"""Runs of a decoder: blocks of epochs, warm starts, every mode reported, and a plan without its text."""

import jax
import numpy as np
import pytest
from support.decoder_runs import CAUSAL, MASKED, TOKENS, recipe, text
from support.runs import DEVICES, SIZE, final_state, lines

from mixlm.checkpoints.saving import Checkpoints
from mixlm.errors import NotHere, UserError
from mixlm.losses.token_losses import MiLe
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.objectives.causal import Causal
from mixlm.objectives.curriculum import Blocks, Curriculum, Stage
from mixlm.objectives.masked_diffusion import MaskedDiffusion
from mixlm.objectives.mixing import PerExample
from mixlm.objectives.prefix_lm import PrefixLM
from mixlm.optim.adamw import AdamW
from mixlm.optim.optimizer import Optimizer
from mixlm.schedules import WSD, Constant
from mixlm.training import run as loop
from mixlm.training.prepare import prepare
from mixlm.training.summary import explanation


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """Runs on one device, which compiles sooner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: DEVICES[:1])
        yield


@pytest.fixture(scope="module")
def first(corpus, tmp_path_factory):
    """A finished causal run."""
    made = recipe(corpus, tmp_path_factory.mktemp("runs") / "first")
    loop.train(made, lambda _: None)
    return made


@pytest.mark.slow
def test_a_warm_start_begins_with_the_other_runs_parameters(first, corpus, tmp_path):
    frozen = Optimizer(AdamW(weight_decay=0.0), Constant(0.0))
    made = recipe(
        corpus, tmp_path / "second", init_from=str(first.folder), optimizer=frozen, train_steps=1,
        curriculum=Curriculum((Stage(0, MASKED),)),
    )  # fmt: skip
    said = []
    loop.train(made, said.append)
    assert any(line.startswith("begins") and str(first.folder) in line for line in said)
    step, state = final_state(made)
    found = Checkpoints(first.folder / "checkpoints").restore_params(state.params)
    assert (step, found[0]) == (1, 3)
    jax.tree.map(np.testing.assert_array_equal, state.params, found[1])
    loop.train(made, said.append)
    assert "has finished its 1 steps" in said[-1]


@pytest.mark.parametrize("kind", ["no run", "another vocabulary", "another size"])
def test_a_warm_start_from_something_else_is_refused(first, corpus, tmp_path, kind):
    changes = {
        "no run": {"init_from": str(first.folder.parent / "frist")},
        "another vocabulary": {},
        "another size": {"networks": {"model": DecoderOnly(**SIZE | {"mlp_dim": 48}, num_layers=1)}},
    }[kind]
    sentence = {
        "no run": r"frist' holds no run with a checkpoint. Did you mean '.*first'",
        "another vocabulary": "was trained with another vocabulary",
        "another size": "mlp",
    }[kind]
    if kind == "another vocabulary":
        some = sorted(corpus.glob("*.txt"))[:20]
        (tmp_path / "text.txt").write_text("\n\n".join(path.read_text() for path in some))
        changes = {"dataset": text(str(tmp_path / "text.txt"))}
    made = recipe(corpus, tmp_path / "second", **{"init_from": str(first.folder)} | changes)
    with pytest.raises(UserError, match=sentence):
        loop.train(made, lambda _: None)
    assert not (made.folder / "checkpoints").exists()


def test_blocks_of_epochs_follow_the_text(corpus, tmp_path):
    blocks = Blocks("0.5 clm, 1 mlm", {"clm": CAUSAL, "mlm": MASKED})
    dataset = text(str(corpus), 6000)
    made = recipe(
        corpus, tmp_path / "blocks", curriculum=blocks, train_steps=None, dataset=dataset, batch_size=32,
        optimizer=Optimizer(AdamW(), WSD(0.01, None)),
    )  # fmt: skip
    tokens = dataset.prepare(lambda _: None).summary.unique_tokens
    loop.train(made, lambda _: None)
    stages = [line["stage"] for line in lines(made)]
    epoch = tokens / (32 * 16)
    assert len(stages) == round(1.5 * epoch) and stages.count("causal") == round(0.5 * epoch)
    assert stages == sorted(stages)
    assert lines(made)[-1]["epoch"] == pytest.approx(1.5, abs=1 / epoch)
    assert lines(made)[-1]["learning_rate"] < lines(made)[0]["learning_rate"]


def test_every_mode_is_reported_in_plain_cross_entropy_whatever_is_trained(corpus, tmp_path):
    modes = (CAUSAL, PrefixLM(TOKENS), MASKED)
    made = recipe(
        corpus, tmp_path / "modes", validation=modes, frequency_bands=(0.8, 0.15, 0.05),
        curriculum=Curriculum((Stage(0, PerExample((Causal(TOKENS, MiLe(1.0)), MaskedDiffusion(TOKENS)), (1.0,))),)),
    )  # fmt: skip
    said = []
    loop.train(made, said.append)
    found = {name: value for name, value in lines(made)[-1].items() if name.startswith("validation/")}
    bands = ("top_80%", "next_15%", "rarest_5%")
    for mode in modes:
        assert {f"validation/{mode.name}"} | {f"validation/{mode.name}/{band}" for band in bands} <= found.keys()
    assert "validation/causal/cross_entropy" not in found
    named = {name for line in lines(made) for name in line if "masked_diffusion" in name and "share" not in name}
    spent = {name for name in named if name.startswith("spent/") or name.endswith(("/tokens", "/mass"))}
    assert named == spent  # of which there was none
    assert found["validation/causal"] != lines(made)[-1]["train/causal"]
    in_bands = [found[f"validation/causal/{band}"] for band in bands]
    assert min(in_bands) < found["validation/causal"] < max(in_bands)
    assert any(line.strip().startswith("prefix_lm ") and "unigram entropy" in line for line in said)
    assert any("examples of mix" in line for line in said) and any("model    " in line for line in said)


def test_a_plan_is_explained_without_its_text(tmp_path):
    made = recipe("", tmp_path / "nowhere")
    with pytest.raises(NotHere, match="No text was given"):
        loop.train(made, lambda _: None)
    said = []
    lines = loop.explain(made, said.append).lines
    assert said[0].startswith("No text was given")
    assert any("not here; the run reads 384 tokens" in line for line in lines)
    assert any(line.startswith("stage causal") and "FLOP a step" in line for line in lines)
    assert not made.folder.exists()


def test_a_plan_without_text_compiles_nothing(tmp_path):
    prepared = prepare(recipe("", tmp_path), None)
    assert explanation(prepared) and prepared.train_step.program._compiled == {}
    prepared.close()


def test_one_executable_serves_every_ratio(tmp_path):
    def mix(alpha: float) -> PerExample:
        return PerExample((CAUSAL, MaskedDiffusion(TOKENS)), (alpha,), (2.0 * alpha + 1, 1.0))

    prepared = prepare(recipe("", tmp_path, curriculum=Curriculum((Stage(0, mix(0.5)),))), None)
    batch = prepared.shard_batch({"tokens": np.random.default_rng(0).integers(5, 90, (8, 16), np.int32)})
    shares, terms = [], set()
    for alpha in (0.0, 0.25, 0.5, 63 / 64, 1.0):
        _, found = prepared.train_step[mix(alpha)](prepared.init_state(), batch, prepared.scalar(0))
        shares.append(float(found["causal/share"]))
        terms |= set(found)
        assert (float(found["causal"]) > 0, float(found["masked_diffusion"]) > 0) == (alpha >= 0.125, alpha < 1)
    assert shares == [0.0, 0.25, 0.5, 7 / 8, 1.0]
    program = prepared.train_step.program
    assert len(program._compiled) == len(program._traced) == 1
    prepared.close()
