"""What an objective is: a frozen dataclass that turns a batch of token blocks into loss terms, given networks."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Array, Int, Key, Shaped

from mixlm.example import Example
from mixlm.losses.score import Scored, score
from mixlm.losses.terms import Term
from mixlm.losses.token_losses import TokenLoss
from mixlm.schedules import Step

Batch = Mapping[str, Shaped[Array, "B ..."]]
Nets = Mapping[str, Any]


@runtime_checkable
class Objective(Protocol):
    """Hashable and equal by value, so that it is static under jit and `jax.jit` is the cache of stages.

    What the rows of a batch share out among themselves (such as which of them are causal), an objective draws in a
    method `drawn(keys, step)`, as further columns of the batch: the step calls it before it makes microbatches.
    """

    @property
    def name(self) -> str:
        """The stage's name in logs."""
        ...

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks that it trains; the step touches no other."""
        ...

    def block_length(self, lengths: Mapping[str, int]) -> int:
        """How many tokens of text a row needs for these feature lengths; UserError where no number fits."""
        ...

    def __call__(self, nets: Nets, batch: Batch, keys: Key[Array, " B"], step: Int[Array, ""]) -> dict[str, Term]:
        """The loss terms of a batch; `keys` holds one key a row, the same wherever the row is computed."""
        ...


@runtime_checkable
class RowObjective(Objective, Protocol):
    """An objective that only corrupts: one forward of one network scores it, so rows of several can share a batch.

    Its term goes by its own name. `--explain` and the report show its examples, and those of any other objective that
    has a method `shown(nets, keys, batch)` (see `mixlm.training.examples`).
    """

    def corrupt(self, keys: Key[Array, " B"], batch: Batch, step: Step = 0) -> Example:
        """The examples of a batch, row by row; `step` is for rates that follow it."""
        ...


@runtime_checkable
class PairObjective(Objective, Protocol):
    """An objective that says whether its rows are pairs (`data.loader.pairs`); all others read text."""

    pairs: ClassVar[bool]


def score_example(net: Any, example: Example, name: str, loss: TokenLoss) -> dict[str, Term]:
    """The terms of one forward over an example: the loss, its accuracy, and plain cross-entropy where that differs."""
    return scored(net, net.hidden(example), example, loss).terms(name, loss)


def scored(net: Any, hidden: Any, example: Example, loss: TokenLoss) -> Scored:
    """Scores the decoder's hidden states against the example's targets."""
    targets, weights = example.decoder_target_tokens, example.decoder_loss_weights
    return score(net.logits, hidden, targets, weights, loss, example.loss_counts)


def drawn(objective: Any, keys: Key[Array, " B"], step: Step) -> dict[str, Shaped[Array, "B ..."]]:
    """The columns that an objective draws for the whole batch; none where it has no such method."""
    return objective.drawn(keys, step) if hasattr(objective, "drawn") else {}
