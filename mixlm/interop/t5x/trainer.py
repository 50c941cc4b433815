"""A recipe trained by T5X's own trainer, on the recipe's data: what a user of T5X writes around `model_class`."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from mixlm.data.loader.batches import Batches
from mixlm.errors import UserError
from mixlm.interop.t5x.model import model_class
from mixlm.recipe import Recipe


def train(recipe: Recipe, say: Callable[[str], Any] = print, log_every: int = 1) -> Any:
    """Trains `recipe.train_steps` steps with T5X's trainer and Adafactor, and returns T5X's train state.

    The data, the batch size and the learning rate are the recipe's; the partitioner is T5X's, for one model partition.
    Nothing is saved. Raises UserError where T5X is not installed.
    """
    kind, steps = model_class(), recipe.train_steps
    if steps is None:
        raise UserError("T5X's trainer takes steps and no epochs: give TRAIN_STEPS.")
    from t5x import adafactor, partitioning, trainer, utils

    model = kind(recipe, adafactor.Adafactor())
    partitioner = partitioning.PjitPartitioner(num_partitions=1)
    shape = (recipe.batch_size, recipe.block_length)
    beginning = utils.TrainStateInitializer(
        optimizer_def=model.optimizer_def,
        init_fn=model.get_initial_variables,
        input_shapes=dict.fromkeys(("decoder_input_tokens", "decoder_target_tokens"), shape),
        partitioner=partitioner,
    )
    with trainer.Trainer(
        model=model,
        train_state=beginning.from_scratch(jax.random.PRNGKey(recipe.seed)),
        partitioner=partitioner,
        eval_names=[],
        summary_dir=None,
        train_state_axes=beginning.train_state_axes,
        rng=jax.random.PRNGKey(recipe.seed),
        learning_rate_fn=recipe.optimizer.learning_rate,
        num_microbatches=None,
    ) as t5x_trainer:
        given = rows(recipe, say)
        for first in range(0, steps, log_every):
            count = min(log_every, steps - first)
            figures = t5x_trainer.train(given, count, start_step=first).result()
            loss = float(np.asarray(figures["loss"].value))
            say(f"step {first + count}: loss {loss:.4f}")
        return t5x_trainer.train_state


def rows(recipe: Recipe, say: Callable[[str], Any]) -> Iterator[dict[str, np.ndarray]]:
    """The recipe's rows of text without end, as T5X's `LMFeatureConverter` names them."""
    prepared = recipe.dataset.prepare(say)
    batches = Batches(prepared.train(recipe.block_length, recipe.seed), recipe.batch_size)
    step = 0
    while True:
        tokens = batches.batch(step)["tokens"]
        inputs = np.pad(tokens, ((0, 0), (1, 0)))[:, :-1]
        yield {"decoder_target_tokens": tokens, "decoder_input_tokens": inputs}
        step += 1
