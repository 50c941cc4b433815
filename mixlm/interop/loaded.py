"""A run that is ready to be scored: its recipe, vocabulary, parameters and scorer, each read when it is asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mixlm.api.run import Run
from mixlm.checkpoints.load import check_networks, load_params
from mixlm.evaluation.scorer import Scorer
from mixlm.perf.compilation_cache import EXECUTABLES, kept_in
from mixlm.recipe import Recipe

BATCH_TOKENS = 4096  # Ours: a batch of 16 questions with 256 tokens.


@dataclass
class Loaded:
    """A run by its folder or address; UserError where there is none, or it has no such network.

    `batch_tokens` is the size of a batch, padding included, and `say` is told how the data are prepared.
    """

    run: Run
    network: str = "model"
    batch_tokens: int = BATCH_TOKENS
    say: Callable[[str], Any] = print

    def __post_init__(self) -> None:
        check_networks(self.recipe, (self.network,))

    @property
    def recipe(self) -> Recipe:
        """The recipe of the run."""
        return self.run.recipe

    @property
    def module(self) -> Any:
        """The network."""
        return self.recipe.networks[self.network]

    @cached_property
    def vocabulary(self) -> Any:
        """The vocabulary of the run's data."""
        return self.recipe.dataset.prepare(self.say).vocabulary

    @cached_property
    def checkpoint(self) -> tuple[int, Any]:
        """The step, and the network's parameters."""
        step, params = load_params(self.recipe, (self.network,), self.vocabulary.fingerprint)
        return step, params[self.network]

    @cached_property
    def scorer(self) -> Scorer:
        """The scorer of the parameters, on the mesh of the recipe."""
        return Scorer(self.module, self.checkpoint[1], self.recipe.partitioning.mesh(), self.batch_tokens)

    def compiled(self) -> Any:
        """A context in which executables are kept on the disk."""
        return kept_in(self.recipe.dataset.cache / EXECUTABLES)
