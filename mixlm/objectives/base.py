"""Objectives: frozen dataclasses that turn a batch of token blocks into loss terms, given networks.

`Objective` is all that training needs. What an objective can do beyond that, it says by meeting one of the other
protocols: rows that mix (`RowObjective`), draws for a whole batch (`BatchObjective`), examples that need networks
(`ShowsExamples`), a discriminator (`Detects`), rows of pairs (`PairObjective`), what its terms score (`NamesTargets`),
how its network is decoded (`Decodable`), or what it answers without (`Answers`).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from mixlm.example import Example
from mixlm.losses.score import Scored, score
from mixlm.losses.terms import Term
from mixlm.losses.token_losses import TokenLoss
from mixlm.schedules import Step

Batch = Mapping[str, Shaped[Array, "B ..."]]
Nets = Mapping[str, Any]


@runtime_checkable
class Objective(Protocol):
    """Hashable and equal by value, so that it is static under jit and `jax.jit` is the cache of stages."""

    @property
    def name(self) -> str:
        """The stage's name in logs."""
        ...

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks that it trains; the step touches no other."""
        ...

    def block_length(self, lengths: Mapping[str, int]) -> int:
        """The tokens of text that a row takes at these feature lengths; UserError where no number fits."""
        ...

    def __call__(self, nets: Nets, batch: Batch, keys: Key[Array, " B"], step: Int[Array, ""]) -> dict[str, Term]:
        """The loss terms of a batch; `keys` holds one key a row, the same wherever the row is computed."""
        ...


@runtime_checkable
class RowObjective(Objective, Protocol):
    """An objective that corrupts each row by itself: one forward of one network scores it.

    Rows of several such objectives can share a batch (`mixing.PerExample`). Its term goes by its own name.
    """

    def corrupt(self, keys: Key[Array, " B"], batch: Batch, step: Step = 0) -> Example:
        """The examples of a batch, row by row; `step` is for rates that follow it."""
        ...


@runtime_checkable
class TokenObjective(RowObjective, Protocol):
    """A row objective that is scored by one token loss, its field `loss`."""

    @property
    def loss(self) -> TokenLoss:
        """The loss of a token."""
        ...


@runtime_checkable
class BatchObjective(Objective, Protocol):
    """An objective that draws some of its noise for the whole batch, such as which of its rows are causal."""

    def drawn(self, keys: Key[Array, " B"], step: Step) -> dict[str, Shaped[Array, "B ..."]]:
        """Further columns of the batch; the step draws them before it makes microbatches."""
        ...


@runtime_checkable
class ShowsExamples(Objective, Protocol):
    """An objective that needs networks to corrupt, and shows its examples to `--explain` and the report itself."""

    def shown(
        self, nets: Nets | None, keys: Key[Array, " B"], batch: Batch, step: Step = 0
    ) -> tuple[Example, Int[Array, "B S"] | None]:
        """Returns (the examples, the encoder's input before anything in it was replaced).

        Without networks, masks stand where their tokens would.
        """
        ...


@runtime_checkable
class Detects(Objective, Protocol):
    """An objective whose discriminator judges the tokens of the encoder's input."""

    def judged(self, nets: Nets, keys: Key[Array, " B"], batch: Batch) -> tuple[Any, Float[Array, "B S"]]:
        """Returns (`example`, `replaced` and `before` as fields, each token's probability that it was replaced)."""
        ...


@struct.dataclass
class Targets:
    """The tokens of which a term scores some, in the order of their text: tokens, and the mask of those scored."""

    tokens: Int[Array, "B T"]
    scored: Bool[Array, "B T"]


@runtime_checkable
class NamesTargets(Objective, Protocol):
    """An objective of several terms, or one that needs networks to corrupt, which says what each term scores."""

    def targets(self, keys: Key[Array, " B"], batch: Batch, step: Step = 0) -> dict[str, Targets]:
        """The targets of each term that scores tokens, by the term's name."""
        ...


@runtime_checkable
class PairObjective(Objective, Protocol):
    """An objective that says whether its rows are pairs (`data.loader.pairs`); all others read text."""

    pairs: ClassVar[bool]


@runtime_checkable
class PacksPairs(PairObjective, Protocol):
    """An objective of pairs that says whether a row of its has several (`data.loader.packing`); others read one."""

    @property
    def packed(self) -> bool:
        """True where it reads packed rows."""
        ...


@runtime_checkable
class ReadsPrevious(Objective, Protocol):
    """An objective that says whether it wants the batch's column `previous` as well.

    That is the token before each row in its text, padding where there is none (see `data.loader.batches.as_batch`).
    """

    @property
    def reads_previous(self) -> bool:
        """True where rows begin with the token before them."""
        ...


@dataclass(frozen=True)
class Decoding:
    """A strategy of `mixlm.decoding` that an objective trains its network for.

    `strategy` is its name, one of `decoding.strategies.STRATEGIES`; `settings` are fields of the strategy that follow
    from training, such as `{"shifted": True}`.
    """

    strategy: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    network: str = "model"


@runtime_checkable
class Decodable(Protocol):
    """An objective that says how its network is decoded."""

    @property
    def decodings(self) -> tuple[Decoding, ...]:
        """The decodings that it trains, the default first."""
        ...


@runtime_checkable
class Answers(Objective, Protocol):
    """An objective of pairs that says by itself what it predicts, as a classifier does, and is not decoded."""

    def answers(self, nets: Nets, batch: Batch) -> Int[Array, "B T"]:
        """The tokens of the answer to each row, whose targets are padding; EOS or padding ends them."""
        ...


class OneNetwork:
    """Base of objectives of one network, whose rows are as long as the targets."""

    network: str
    shifted: bool = True  # what follows are fields of those whose rows begin with another token than their first
    row_bos: bool = True

    @property
    def networks(self) -> tuple[str, ...]:
        """The one network that is trained."""
        return (self.network,)

    @property
    def reads_previous(self) -> bool:
        """True where the first input of a row is the token before it, and not BOS."""
        return self.shifted and not self.row_bos

    def block_length(self, lengths: Mapping[str, int]) -> int:
        """A row is as long as its targets."""
        return lengths["targets"]


class Corruption(OneNetwork, ABC):
    """Base of row objectives: rows are corrupted, read in one forward, and scored by `loss` under the own name."""

    loss: TokenLoss

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the term, and of the stage in logs."""

    @abstractmethod
    def corrupt(self, keys: Key[Array, " B"], batch: Batch, step: Step = 0) -> Example:
        """The examples of a batch, row by row."""

    def __call__(self, nets: Nets, batch: Batch, keys: Key[Array, " B"], step: Int[Array, ""]) -> dict[str, Term]:
        """The term of the objective's name: the mean loss of a scored token."""
        return score_example(nets[self.network], self.corrupt(keys, batch, step), self.name, self.loss)


def score_example(net: Any, example: Example, name: str, loss: TokenLoss) -> dict[str, Term]:
    """The terms of one forward over an example: the loss, its accuracy, and plain cross-entropy where that differs."""
    return scored(net, net.hidden(example), example, loss).terms(name, loss)


def scored(net: Any, hidden: Any, example: Example, loss: TokenLoss) -> Scored:
    """Scores the decoder's hidden states against the example's targets."""
    targets, weights = example.decoder_target_tokens, example.decoder_loss_weights
    return score(net.logits, hidden, targets, weights, loss, example.loss_counts)


def targets_of(objective: Objective, keys: Key[Array, " B"], batch: Batch, step: Step = 0) -> dict[str, Targets]:
    """The targets of an objective's terms, by name; {} where it does not say them."""
    if isinstance(objective, NamesTargets):
        return objective.targets(keys, batch, step)
    return (
        {objective.name: scored_in(objective.corrupt(keys, batch, step))} if isinstance(objective, RowObjective) else {}
    )


def scored_in(example: Example) -> Targets:
    """The decoder's targets, of which those with a loss weight are scored."""
    return Targets(example.decoder_target_tokens, example.decoder_loss_weights > 0)


def batch_columns(objective: Objective, keys: Key[Array, " B"], step: Step) -> dict[str, Shaped[Array, "B ..."]]:
    """The columns that an objective draws for the whole batch; none where it draws row by row alone."""
    return objective.drawn(keys, step) if isinstance(objective, BatchObjective) else {}


def any_reads_previous(objectives: Iterable[Objective]) -> bool:
    """True where one of these objectives reads the token before each row."""
    return any(isinstance(each, ReadsPrevious) and each.reads_previous for each in objectives)


def decodings_of(*objectives: Objective) -> tuple[Decoding, ...]:
    """The decodings of these objectives, in their order; none for an objective that does not say it."""
    return tuple(one for each in objectives if isinstance(each, Decodable) for one in each.decodings)
