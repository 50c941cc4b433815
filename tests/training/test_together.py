"""Cells that are trained together are the runs that they would be alone: lines, states, folders, failures, resumes."""

import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from support.networks import Bag
from support.runs import Killed, assert_same, final_state

from mixlm.checkpoints.kept import KeptCheckpoints
from mixlm.data.dataset import Dataset
from mixlm.data.tasks import TextFiles, TextTask
from mixlm.data.vocabulary import TrainedSentencePiece
from mixlm.errors import UserError
from mixlm.objectives.causal import Causal
from mixlm.objectives.curriculum import Curriculum, Stage
from mixlm.objectives.masked_diffusion import MaskedDiffusion
from mixlm.objectives.mixing import PerExample
from mixlm.optim.adamw import AdamW
from mixlm.optim.optimizer import Optimizer
from mixlm.parallel.mesh import Partitioning
from mixlm.recipe import Recipe
from mixlm.reports.journal import read_examples
from mixlm.reports.metrics import read
from mixlm.schedules import WSD, Constant
from mixlm.tokens import TokenIds
from mixlm.training import run as alone
from mixlm.training.ledger import Ledger
from mixlm.training.together import groups, train_together

TOKENS = TokenIds(vocab_size=112, mask=4, bos=3, sentinels=20)
# What a line says of the time that it took.
TIMES = ("tokens_per_second", "mfu")


def recipe(corpus, folder, alpha=0.5, rate=0.01, seed=0, unique=None, tau=8, **changes) -> Recipe:
    """Eight steps under a mix of rows, or until `tau`, and then causal ones."""
    mix = PerExample((Causal(TOKENS), MaskedDiffusion(TOKENS)), (alpha,))
    text = TextTask("text", TextFiles(str(corpus)), TrainedSentencePiece(112, sentinels=20))
    settings = {
        "name": "small",
        "networks": {"model": Bag(112, 16)},
        "curriculum": Curriculum((Stage(0, mix), Stage(tau, Causal(TOKENS)))),
        "dataset": Dataset(text, unique),
        "tokens": TOKENS,
        "optimizer": Optimizer(AdamW(), WSD(rate)),
        "train_steps": 8,
        "batch_size": 8,
        "lengths": {"targets": 16},
        "model_dir": str(folder),
        "log_period": 2,
        "eval_period": 4,
        "eval_batches": 2,
        "checkpoint_period": 3,
        "seed": seed,
    }
    return Recipe(**(settings | changes))


def test_recipes_are_grouped_by_what_is_static():
    text = Path("texts")
    alike = [
        recipe(text, "a"),
        recipe(text, "b", alpha=0.25, rate=0.1, seed=7),
        recipe(text, "c", unique=500, tau=2),
        recipe(text, "d", optimizer=Optimizer(AdamW(weight_decay=0.0), WSD(0.1, warmup_steps=2), 0.5)),
    ]
    others = [
        recipe(text, "e", networks={"model": Bag(112, 32)}),
        recipe(text, "f", batch_size=16),
        recipe(text, "g", optimizer=Optimizer(AdamW(), Constant(0.1))),
        recipe(text, "h", train_steps=9),
        recipe(text, "i", eval_period=5),
    ]
    mixed = [alike[0], others[0], alike[1], *others[1:], *alike[2:]]
    assert groups(mixed, 8) == [alike, *([each] for each in others)]
    assert [len(members) for members in groups(alike * 3, 5)] == [4, 4, 4]
    assert [len(members) for members in groups(alike, 1)] == [1] * 4


def test_what_cannot_be_batched_is_refused_before_anything_is_read(tmp_path):
    first, other = recipe(tmp_path, tmp_path / "a"), recipe(tmp_path, tmp_path / "b", batch_size=16)
    with pytest.raises(UserError, match=r"a and .*b cannot be trained together: they differ in BATCH_SIZE\."):
        train_together([first, other])
    with pytest.raises(UserError, match="in one folder"):
        train_together([first, first])
    with pytest.raises(UserError, match=r"TENSOR_PARTITIONS = 2 cuts a run"):
        train_together([replace(first, partitioning=Partitioning(tensor=2))])
    assert list(tmp_path.iterdir()) == []


def cells(corpus, folder, **changes) -> list[Recipe]:
    """Three cells, two of which read the same rows, and one that changes its objective earlier."""
    return [
        recipe(corpus, folder / "a", **changes),
        recipe(corpus, folder / "b", 0.25, 0.02, 3, 3000, **changes),
        recipe(corpus, folder / "c", 0.75, 0.005, 3, 3000, **{"tau": 4} | changes),
    ]


def silent(_: str) -> None:
    pass


def lines(made: Recipe) -> list[dict]:
    return [{key: value for key, value in line.items() if key not in TIMES} for line in read(made.folder)]


def assert_close(left: Recipe, right: Recipe) -> None:
    """The lines and the last states of two runs, to rounding."""
    for here, there in zip(lines(left), lines(right), strict=True):
        assert here.keys() == there.keys()
        for name, value in here.items():
            assert value == (pytest.approx(there[name], rel=1e-5) if isinstance(value, float) else there[name]), name
    (step, here), (other, there) = final_state(left), final_state(right)
    assert step == other
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-4, atol=1e-6), here, there
    )


@pytest.mark.slow
def test_cells_together_are_the_runs_alone(corpus, tmp_path):
    together, apart = cells(corpus, tmp_path / "together"), cells(corpus, tmp_path / "apart")
    assert train_together(together, silent) == [None] * 3
    for here, there in zip(together, apart):
        alone.train(there, silent)
        assert_close(here, there)
        names = [{path.name for path in made.folder.iterdir()} for made in (here, there)]
        assert names[0] == names[1]
        shown = [
            [(step, [each.says for each in found]) for step, found in read_examples(made.folder)]
            for made in (here, there)
        ]
        assert shown[0] == shown[1] and len(shown[0]) > 1


@pytest.mark.slow
def test_each_cell_keeps_checkpoints_by_the_words_that_it_reads(corpus, tmp_path):
    changes = {"keep": 1, "keep_at_words": (60.0, 120.0)}
    together, apart = cells(corpus, tmp_path / "together", **changes), cells(corpus, tmp_path / "apart", **changes)
    assert train_together(together, silent) == [None] * 3
    for here, there in zip(together, apart):
        alone.train(there, silent)
        kept = [KeptCheckpoints(made.folder / "checkpoints") for made in (here, there)]
        named = kept[0].named()
        assert list(named) == ["chck_60", "chck_120"] and 0 < named["chck_60"] < named["chck_120"] < 8
        assert named == kept[1].named() and kept[0].listed() == kept[1].listed()
        assert_close(here, there)


@pytest.mark.slow
def test_a_cell_that_diverges_ends_and_the_others_are_untouched(corpus, tmp_path):
    whole, broken = cells(corpus, tmp_path / "whole"), cells(corpus, tmp_path / "broken")
    broken[1] = replace(broken[1], optimizer=Optimizer(AdamW(), WSD(1e30)))
    train_together(whole, silent)
    first, error, last = train_together(broken, silent)
    assert first is None and last is None
    assert str(tmp_path / "broken" / "b") in str(error) and "is not finite" in str(error)
    for index in (0, 2):
        assert lines(broken[index]) == lines(whole[index])
        assert_same(final_state(broken[index])[1], final_state(whole[index])[1])


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [2, 5])
def test_a_killed_group_resumes_to_the_bit(corpus, tmp_path, monkeypatch, killed_at):
    whole, killed = cells(corpus, tmp_path / "whole"), cells(corpus, tmp_path / "killed")
    train_together(whole, silent)
    line = Ledger.line

    def until(self, done, *given):
        if done > killed_at and self.recipe.seed == 0:
            raise Killed
        return line(self, done, *given)

    monkeypatch.setattr(Ledger, "line", until)
    with pytest.raises(Killed):
        train_together(killed, silent)
    monkeypatch.setattr(Ledger, "line", line)
    # One of them is behind the others, as where its last checkpoint was torn.
    shutil.rmtree(tmp_path / "killed" / "b" / "checkpoints" / "3", ignore_errors=True)
    assert train_together(killed, silent) == [None] * 3
    for here, there in zip(killed, whole):
        assert lines(here) == lines(there)
        assert_same(final_state(here)[1], final_state(there)[1])


@pytest.mark.slow
def test_the_order_of_cells_changes_nothing_and_one_goes_on_alone(corpus, tmp_path):
    forward, backward = cells(corpus, tmp_path / "forward"), cells(corpus, tmp_path / "backward")[::-1]
    train_together(forward, silent)
    train_together(backward, silent)
    for here, there in zip(forward, backward[::-1]):
        assert_close(here, there)
    said: list[str] = []
    alone.train(forward[0], said.append)
    assert said == [
        f"{tmp_path / 'forward' / 'a'} has finished its 8 steps; its curves are in {forward[0].folder / 'curves.png'}."
    ]
    assert train_together(forward, silent) == [None] * 3
    assert train_together([replace(forward[1], batch_size=16)], silent)[0] is not None
    longer = replace(forward[2], train_steps=10)
    alone.train(longer, silent)
    assert final_state(longer)[0] == 10


@pytest.mark.slow
def test_runs_as_long_as_their_data_end_at_their_own_steps(corpus, tmp_path):
    def of_epochs(folder):
        many = {"train_steps": None, "tau": 3, "lengths": {"targets": 64}, "eval_period": 99, "checkpoint_period": 99}
        return [
            recipe(corpus, folder / "a", unique=4500, epochs=2, **many),
            recipe(corpus, folder / "b", 0.25, unique=2500, epochs=4, **many),
            recipe(corpus, folder / "c", 0.75, unique=7000, epochs=1, **many),
        ]

    together, apart = of_epochs(tmp_path / "together"), of_epochs(tmp_path / "apart")
    assert train_together(together, silent) == [None] * 3
    steps = []
    for here, there in zip(together, apart):
        alone.train(there, silent)
        assert_close(here, there)
        steps.append(final_state(here)[0])
    assert len(set(steps)) > 1
