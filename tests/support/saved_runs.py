"""Runs on the disk with made-up parameters: what training would leave, without a step of it."""

import jax
import numpy as np

from mixlm.api.run import Run
from mixlm.checkpoints.run_dir import RunDir
from mixlm.checkpoints.saving import Checkpoints
from mixlm.checkpoints.warm_start import placed
from mixlm.recipe import Recipe
from mixlm.training.initial_state import initial_state
from support.hf_networks import parameters


def small(module: str, **fields) -> dict:
    """Values for a recipe whose network is a `module`: 112 tokens, width 16, two layers, or three behind an encoder."""
    size = {"num_heads": 2, "head_dim": 8, "mlp_dim": 24}
    both = module == "EncoderDecoder"
    size |= {"num_encoder_layers": 2, "num_decoder_layers": 3} if both else {"num_layers": 2}
    size |= {"num_buckets": 8, "max_position": 40} if module in ("LTGBert", "GPTBert") else {}
    vocabulary = {"VOCAB_SIZE": 112, "TokenIds.sentinels": 20, "TrainedSentencePiece.sentinels": 20}
    return vocabulary | {"EMB_DIM": 16} | {f"{module}.{name}": value for name, value in (size | fields).items()}


def saved_run(recipe: Recipe, step: int = 3) -> Run:
    """A run of the recipe, by its own config.gin, whose checkpoint has a number of its own for every parameter."""
    vocabulary = recipe.dataset.prepare(lambda line: None).vocabulary
    shapes = initial_state(dict(recipe.modules), recipe.optimizer, recipe.seed, recipe.partitioning.layout())[1]
    state = placed(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes), shapes)
    params = {name: placed(parameters(module), shapes.params[name]) for name, module in recipe.modules}
    folder = RunDir(recipe.folder)
    folder.acquire(recipe.identity() | {"vocabulary": vocabulary.fingerprint}, recipe.config)
    checkpoints = Checkpoints(folder.checkpoints)
    checkpoints.save(step, state.replace(step=state.step + step, params=params))
    checkpoints.close()
    folder.release()
    return Run(recipe.folder)
