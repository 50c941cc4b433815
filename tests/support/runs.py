"""A small run of SpacTor, and readings of what a run left."""

import jax
import numpy as np

from mixlm.checkpoints.saving import Checkpoints
from mixlm.checkpoints.warm_start import find_warm_start
from mixlm.data.dataset import Dataset
from mixlm.data.tasks import TextFiles, TextTask
from mixlm.data.vocabulary import TrainedSentencePiece
from mixlm.models.heads import TokenHead
from mixlm.objectives.curriculum import Curriculum, Stage
from mixlm.objectives.spactor import SpacTor
from mixlm.objectives.span_corruption import SpanCorruption
from mixlm.optim.adafactor import Adafactor
from mixlm.optim.optimizer import Optimizer
from mixlm.recipe import Recipe
from mixlm.reports.metrics import read
from mixlm.schedules import Constant
from mixlm.tokens import TokenIds
from mixlm.training import run as loop
from mixlm.training.initial_state import initial_state
from support.networks import Bag

DEVICES = jax.devices()
SIZE = {"vocab_size": 112, "emb_dim": 32, "num_heads": 2, "head_dim": 16, "mlp_dim": 64}


def recipe(corpus, folder, **changes) -> Recipe:
    tokens = TokenIds(vocab_size=112, mask=4, bos=3, sentinels=20)
    spans = SpanCorruption(tokens)
    settings = {
        "name": "small",
        "networks": {
            "model": Bag(112, 32),
            "generator": Bag(112, 32),
            "rtd_head": TokenHead(32),
        },
        "curriculum": Curriculum((Stage(0, SpacTor(spans)), Stage(4, spans))),
        "dataset": Dataset(TextTask("text", TextFiles(str(corpus)), TrainedSentencePiece(112, sentinels=20))),
        "tokens": tokens,
        "optimizer": Optimizer(Adafactor(), Constant(0.02)),
        "train_steps": 8,
        "batch_size": 8,
        "lengths": {"inputs": 32, "targets": 8},
        "model_dir": str(folder),
        "log_period": 1,
        "eval_period": 4,
        "eval_batches": 2,
        "checkpoint_period": 3,
    }
    return Recipe(**(settings | changes))


def final_state(made: Recipe):
    mesh = made.partitioning.mesh()
    shapes = initial_state(dict(made.modules), made.optimizer, made.seed, mesh)[1]
    checkpoints = Checkpoints(made.folder / "checkpoints")
    step, state = checkpoints.restore(shapes)
    checkpoints.close()
    return step, state


def lines(made: Recipe) -> list[dict]:
    return [{key: value for key, value in line.items() if key != "tokens_per_second"} for line in read(made.folder)]


def assert_same(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), left, right)


class Killed(Exception):
    pass


def begun(made):
    """What a run says of where it begins, and its first state, without its text."""
    prepared = loop.prepare(made, None, warm_start=find_warm_start(made))
    try:
        return prepared.warm_start.described(made.identity()), prepared.warm_start.state(
            prepared.init_state, prepared.shapes
        )
    finally:
        prepared.close()
