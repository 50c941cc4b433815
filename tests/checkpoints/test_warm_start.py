"""Runs that begin in another: a sweep over tau trains its first stage once; parameters cross objectives; T5X's too."""

import json
import shutil

import jax
import numpy as np
import pytest
from support import places
from support.decoder_runs import CAUSAL, MASKED, TOKENS, text
from support.decoder_runs import recipe as decoder_recipe
from support.networks import Bag
from support.runs import DEVICES, SIZE, Killed, assert_same, begun, final_state, lines, recipe

from mixlm.checkpoints import from_t5x, reader
from mixlm.checkpoints.load import load_params
from mixlm.checkpoints.run_dir import RunDir
from mixlm.checkpoints.saving import Checkpoints
from mixlm.checkpoints.warm_start import find_warm_start
from mixlm.errors import UserError
from mixlm.models.t5 import EncoderDecoder
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.objectives.curriculum import Curriculum, Stage
from mixlm.objectives.spactor import SpacTor
from mixlm.objectives.span_corruption import SpanCorruption
from mixlm.optim.adafactor import Adafactor
from mixlm.optim.adamw import AdamW
from mixlm.optim.optimizer import Optimizer
from mixlm.schedules import Constant
from mixlm.training import run as loop
from mixlm.training.initial_state import initial_state

SPANS = SpanCorruption(TOKENS)
GOLDEN = places.GOLDEN / "t5x_checkpoint"


def until(tau: int) -> Curriculum:
    return Curriculum((Stage(0, SpacTor(SPANS)), Stage(tau, SPANS)))


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """Runs on one device, which compiles sooner, and without the report at their end, which other tests read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: DEVICES[:1])
        patch.setattr(loop, "finish", lambda prepared, folder, state, say: folder.curves.touch())
        yield


def quiet(made) -> list[str]:
    said = []
    loop.train(made, said.append)
    return said


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def late(corpus, place):
    """A run that leaves its first stage after step 6, with all of its checkpoints."""
    made = recipe(corpus, place / "late", curriculum=until(6), checkpoint_period=2, keep=5, eval_period=100)
    quiet(made)
    return made


@pytest.fixture(scope="module")
def scratch(corpus, place):
    """A run that leaves its first stage after step 4, from scratch."""
    made = recipe(corpus, place / "scratch", curriculum=until(4), checkpoint_period=100, eval_period=100)
    quiet(made)
    return made


def forked(corpus, folder, **changes):
    return recipe(corpus, folder, **{"curriculum": until(4), "eval_period": 100, "init_optimizer": True} | changes)


def test_a_fork_at_tau_is_the_run_that_switched_there_to_the_bit(late, scratch, corpus, place):
    made = forked(corpus, place / "fork", init_from=f"{late.folder}@4")
    said = quiet(made)
    assert [line["step"] for line in lines(made)] == [5, 6, 7, 8]
    assert lines(made) == lines(scratch)[4:]
    assert_same(final_state(made)[1], final_state(scratch)[1])
    assert any(line.startswith("begins") and f"after step 4 of {late.folder}, with its optim" in line for line in said)
    assert json.loads((made.folder / "recipe.json").read_text())["began"] == f"{late.folder}@4"
    # The source is only read, and the fork, finished, does not need it.
    assert quiet(forked(corpus, place / "fork", init_from=f"{late.folder}@4"))[-1].endswith("curves.png.")


def test_a_fork_that_was_killed_begins_where_it_began(late, scratch, corpus, place, monkeypatch):
    """Before it has a checkpoint of its own, from the recorded step, although the source has gone on since."""
    source = place / "growing"
    shutil.copytree(late.folder, source)
    for step in (6, 8):
        (source / "checkpoints" / str(step)).rename(source / f"{step}")
    made = forked(corpus, place / "killed", init_from=str(source), checkpoint_period=3)
    settle = loop.Loop.settle

    def killed_at(step):
        def until(self, done, metrics, params=None):
            settle(self, done, metrics, params)
            if done == step:
                raise Killed

        return until

    for step, restores in ((5, 4), (7, 4)):
        monkeypatch.setattr(loop.Loop, "settle", killed_at(step))
        with pytest.raises(Killed):
            said = []
            loop.train(made, said.append)
        assert f"resuming after step {restores}" in said
        for newer in (6, 8):
            if (source / f"{newer}").exists():
                (source / f"{newer}").rename(source / "checkpoints" / str(newer))
    monkeypatch.setattr(loop.Loop, "settle", settle)
    # From here on it stands on its own checkpoint.
    shutil.rmtree(source)
    said = quiet(made)
    assert "resuming after step 6" in said and any(line.startswith("began ") for line in said)
    assert lines(made) == lines(scratch)[4:]
    assert_same(final_state(made)[1], final_state(scratch)[1])
    assert json.loads((made.folder / "recipe.json").read_text())["began"] == f"{source}@4"


def test_another_walk_over_the_data_is_said(late, corpus, place):
    """A fork may take another seed or batch; then its rows are not those that the source would have read next."""
    row, _ = begun(forked(corpus, place / "walk", init_from=f"{late.folder}@4", batch_size=4, seed=3))
    assert row.endswith("; on another walk over the data than there (seed 0, batch_size 8)")
    assert "walk" not in begun(forked(corpus, place / "walk", init_from=f"{late.folder}@4"))[0]


def test_what_the_checkpoints_hold_is_the_same_in_both_stages(late):
    """The set of arrays, their shapes and types on the disk do not tell which stage wrote them."""

    def layout(step):
        with reader.reading(late.folder / "checkpoints" / str(step)) as (metadata, _):
            found = jax.tree_util.tree_flatten_with_path(metadata.tree)[0]
        return {jax.tree_util.keystr(path): (leaf.shape, leaf.dtype) for path, leaf in found}

    assert len(layout(2)) > 20
    assert layout(2) == layout(6) == layout(8)


def small(**changes):
    """The network of a decoder's run, of another size."""
    return {"model": DecoderOnly(**SIZE | changes, num_layers=1)}


def test_what_cannot_be_gone_on_with_is_one_sentence_and_leaves_no_trace(late, corpus, place, tmp_path):
    some = sorted(corpus.glob("*.txt"))
    (tmp_path / "more").mkdir()
    for path in some:
        shutil.copy(path, tmp_path / "more")
    cut = text(str(corpus), 6000)
    head = {name: late.networks[name] for name in ("model", "generator")}
    wrong = [
        (
            {"init_from": f"{late.folder}@5"},
            r"late/checkpoints keeps no checkpoint of step 5, it keeps 2, 4, 6 and 8\.",
        ),
        ({"init_from": f"{late.folder}@8"}, r"goes on after step 8, and this run ends after step 8"),
        ({"dataset": cut}, r"trained on other data, so this run cannot go on at step 4"),
        ({"optimizer": Optimizer(AdamW(), Constant(0.1))}, r"has no opt_state/.* needs; it is another optimizer's\.$"),
        ({"optimizer": Optimizer(Adafactor(weight_decay=0.1), Constant(0.1))}, r"4 holds another optimizer's state\.$"),
        ({"networks": head, "curriculum": Curriculum((Stage(0, SPANS),))}, r"holds rtd_head as well, and INIT_OPTIM"),
        ({"networks": {**late.networks, "second": head["generator"]}}, r"lacks second, and INIT_OPTIMIZER goes on"),
        ({"networks": late.networks | {"generator": Bag(112, 48)}}, r"params/generator/.* has shape"),
        ({"init_from": None}, r"^INIT_OPTIMIZER takes the optimizer's state from INIT_FROM, which names no run\.$"),
        ({"init_from": f"{late.folder}@best"}, r"is best depends on BEST_METRIC"),
    ]
    for change, sentence in wrong:
        made = forked(corpus, tmp_path / "run", **{"init_from": f"{late.folder}@4"} | change)
        # Most need no text to be told, so that nothing is compiled.
        whole = "data" in sentence or "shape" in sentence
        with pytest.raises(UserError, match=sentence) as error:
            loop.train(made, lambda _: None) if whole else begun(made)
        assert "\n" not in str(error.value)
        assert not made.folder.exists()
    # With the parameters alone, other data are no matter.
    assert find_warm_start(forked(corpus, tmp_path, init_from=f"{late.folder}@4", init_optimizer=False)).first == 0


def test_training_in_a_checkpoint_is_refused(late, corpus):
    with pytest.raises(UserError, match=r"names a checkpoint: to begin there, give --gin.INIT_FROM=.*late@4 and a"):
        loop.train(recipe(corpus, f"{late.folder}@4"), lambda _: None)


@pytest.fixture(scope="module")
def first(corpus, place):
    """A run of span corruption alone, with neither a generator nor a head, that has only begun."""
    model = {"model": Bag(112, 32)}
    made = recipe(corpus, place / "spans", networks=model, curriculum=Curriculum((Stage(0, SPANS),)), seed=5)
    folder, checkpoints = RunDir(made.folder), Checkpoints(made.folder / "checkpoints")
    folder.acquire(made.identity(), "")
    folder.release()
    checkpoints.save(2, initial_state(dict(made.modules), made.optimizer, made.seed, made.partitioning.mesh())[0]())
    checkpoints.close()
    return made


def test_shared_networks_are_taken_and_the_others_begin_afresh(first, corpus, place):
    made = recipe(corpus, place / "warm", init_from=str(first.folder))
    row, state = begun(made)
    assert row.endswith(f"with model of {first.folder}@2; generator and rtd_head afresh")
    afresh = initial_state(dict(made.modules), made.optimizer, made.seed, made.partitioning.mesh())[0]()
    assert_same(state.params["model"], final_state(first)[1].params["model"])
    assert_same(state.replace(params=state.params | {"model": afresh.params["model"]}), afresh)


def test_networks_that_are_not_needed_stay_behind(late, corpus, place):
    model = {"model": late.networks["model"]}
    spans = Curriculum((Stage(0, SPANS),))
    state = begun(recipe(corpus, place / "x", init_from=f"{late.folder}@2", networks=model, curriculum=spans))[1]
    step, found = load_params(recipe(corpus, f"{late.folder}@2", curriculum=until(6)), ("model",))
    assert step == 2
    assert_same(state.params, found)
    assert state.step == 0
    different = load_params(late, ("model",))[1]["model"]
    assert any((np.asarray(a) != b).any() for a, b in zip(jax.tree.leaves(different), jax.tree.leaves(found["model"])))


def test_a_run_that_shares_no_network_is_refused(late, corpus, tmp_path):
    made = recipe(
        corpus, tmp_path / "run", init_from=str(late.folder), curriculum=Curriculum((Stage(0, CAUSAL),)),
        networks={"model": small()["model"], "other": small()["model"]},
    )  # fmt: skip
    assert find_warm_start(made).afresh == ("other",)
    alone = {"generator_2": small()["model"]}
    with pytest.raises(
        UserError, match=r"none of this run's networks \(generator_2\), only generator, model, rtd_head"
    ):
        find_warm_start(_renamed(made, alone))


def _renamed(made, networks):
    object.__setattr__(made, "networks", networks)
    return made


def test_the_best_checkpoint_stays_and_is_named(corpus, place, tmp_path):
    made = decoder_recipe(
        corpus, place / "best", train_steps=6, eval_period=2, checkpoint_period=2, keep=1, best_metric="causal",
        optimizer=Optimizer(Adafactor(), Constant(0.3)), validation=(CAUSAL, MASKED),
    )  # fmt: skip
    said = quiet(made)
    values = {line["step"]: line["validation/causal"] for line in lines(made) if "validation/causal" in line}
    assert set(values) == {2, 4, 6}
    best = min(values, key=values.get)
    kept = sorted(int(path.name) for path in (made.folder / "checkpoints").iterdir())
    assert kept == sorted({best, 6})
    assert f"Best is step {best}, with {values[best]:.4f} of causal: {made.folder}@best." in said
    scored = decoder_recipe(corpus, f"{made.folder}@best", best_metric="causal")
    assert load_params(scored)[0] == best
    usual = {"train_steps": 6, "best_metric": "causal", "validation": (CAUSAL, MASKED)}
    for change, sentence in (
        (
            {"best_metric": "casual"},
            r"'casual' is no figure .* which reports causal, masked_lm\. Did you mean 'causal'",
        ),
        ({"eval_period": 5, "checkpoint_period": 4}, r"EVAL_PERIOD = 5 first meet at step 20 of 6"),
    ):
        other = decoder_recipe(corpus, tmp_path / "run", **usual | change)
        with pytest.raises(UserError, match=sentence):
            loop.train(other, lambda _: None)
        assert not other.folder.exists()


def test_a_keep_period_is_a_multiple_of_the_checkpoints(corpus):
    with pytest.raises(
        UserError, match=r"KEEP_PERIOD = 500 must be a multiple of CHECKPOINT_PERIOD = 200, such as 400"
    ):
        decoder_recipe(corpus, "run", keep_period=500, checkpoint_period=200)


T5X = EncoderDecoder(
    vocab_size=96, emb_dim=32, num_heads=4, head_dim=8, mlp_dim=64, num_encoder_layers=2, num_decoder_layers=2
)


def t5x_run(corpus, folder, vocab_size=90, **changes):
    tokens = type(TOKENS)(vocab_size=vocab_size, mask=4, bos=3, sentinels=5)
    dataset = text(str(corpus))
    vocabulary = type(dataset.task.vocabulary)(vocab_size, sentinels=5)
    dataset = type(dataset)(type(dataset.task)("text", dataset.task.source, vocabulary))
    return recipe(
        corpus, folder, tokens=tokens, dataset=dataset,
        **{"networks": {"model": T5X}, "curriculum": Curriculum((Stage(0, SpanCorruption(tokens)),))} | changes,
    )  # fmt: skip


@pytest.mark.parametrize("text_of", [GOLDEN, GOLDEN / "checkpoint_0", f"{GOLDEN}@0"], ids=["all", "one", "step"])
def test_the_parameters_of_t5x_are_taken(corpus, tmp_path, text_of):
    made = t5x_run(corpus, tmp_path / "run", init_from=str(text_of))
    row, state = begun(made)
    assert row.endswith(f"T5X's {GOLDEN / 'checkpoint_0'}, whose vocabulary cannot be checked")
    assert_same(state.params["model"], from_t5x.load_checkpoint(GOLDEN))
    jax.tree.map(lambda leaf: leaf.sharding.mesh == made.partitioning.mesh() or pytest.fail(), state.params)


def test_a_t5x_checkpoint_that_does_not_fit_is_one_sentence(corpus, tmp_path):
    shutil.copytree(GOLDEN / "checkpoint_0", tmp_path / "t5x" / "checkpoint_0")
    shutil.copytree(GOLDEN / "checkpoint_0", tmp_path / "t5x" / "checkpoint_20")
    shutil.rmtree(tmp_path / "t5x" / "checkpoint_20" / "target.decoder.layers_1.mlp.wi_0.kernel")
    wide = {"model": T5X.clone(mlp_dim=48)}
    wrong = [
        (
            {"networks": wide},
            r"'decoder/layers_0/mlp/wi_0/kernel' is of shape \(32, 64\), and the network's is \(32, 48\)",
        ),
        (
            {"init_optimizer": True},
            r"is a T5X checkpoint, of which the parameters alone are read: INIT_OPTIMIZER=False",
        ),
        ({"init_from": f"{GOLDEN}@7"}, r"holds T5X's checkpoints of step 0 alone"),
        ({"init_from": str(tmp_path / "t5x")}, r"'decoder/layers_1/mlp/wi_0/kernel' is missing or torn"),
    ]
    for change, sentence in wrong:
        made = t5x_run(corpus, tmp_path / "run", **{"init_from": str(GOLDEN)} | change)
        with pytest.raises(UserError, match=sentence) as error:
            begun(made)
        assert "\n" not in str(error.value) and not made.folder.exists()
