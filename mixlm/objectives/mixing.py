"""Mixtures of objectives: row by row in one forward (`PerExample`), or as a weighted sum of losses (`Sum`)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Shaped

from mixlm.errors import UserError
from mixlm.example import Example
from mixlm.losses.score import score_rows
from mixlm.losses.terms import Term
from mixlm.losses.token_losses import CrossEntropy
from mixlm.objectives.apportionment import apportioned
from mixlm.objectives.base import (
    Batch,
    Decoding,
    Nets,
    Objective,
    RowObjective,
    Targets,
    TokenObjective,
    any_reads_previous,
    batch_columns,
    decodings_of,
    scored_in,
    targets_of,
)
from mixlm.objectives.corruption import rate_at
from mixlm.rng import fold_rows, random_row_order
from mixlm.schedules import Schedule, Step


@dataclass(frozen=True)
class PerExample:
    """Rows of one batch under different objectives, in one forward of one network (Dual; GPT-BERT's 15 to 1).

    `shares` are those of the rows of all objectives but the last, which takes the rest. The rows' number per objective
    is exact over steps (see `apportioned`) and which rows they are is drawn anew every step. The loss is the sum of
    `share * loss_weight * (total / count)` with the realised share, each objective's terms under its own name: the
    mean over the rows. Dual's release weighs causal rows by 2, its formula by 1. An objective without a row in a step
    weighs nothing there. Shares and loss weights may be traced, so that one executable serves every ratio.

    UserError where the objectives do not read one network, do not share their rows' length, or have no token loss.
    """

    traced: ClassVar[tuple[str, ...]] = ("shares", "loss_weights")
    objectives: tuple[RowObjective, ...]
    shares: tuple[float | Schedule, ...]
    loss_weights: tuple[float | Schedule, ...] | None = None
    name: str = "mix"
    # For each objective the first one with its loss: told while the losses are plain numbers, which can be compared.
    scored_as: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _as_tuples(self, "objectives", "shares", "loss_weights")
        _check_names(self)
        count = len(self.objectives)
        if len(self.shares) != count - 1:
            raise UserError(
                f"PerExample.shares = {self.shares} must have {count - 1} entries for {count} objectives: "
                "the last objective takes the rest."
            )
        _check_numbers(self, "shares", self.shares)
        if self.loss_weights is not None:
            _check_numbers(self, "loss_weights", self.loss_weights, count)
        given = sum(share for share in self.shares if not isinstance(share, Schedule))
        if given > 1 + 1e-6:
            raise UserError(f"PerExample.shares = {self.shares} add up to more than 1.")
        networks = {network: None for objective in self.objectives for network in objective.networks}
        if len(networks) != 1:
            raise UserError(
                f"PerExample runs one network over all rows, but its objectives train {' and '.join(networks)}."
            )
        for objective, loss in zip(self.objectives, self._losses):
            if loss is None:
                raise UserError(f"PerExample scores by each objective's field `loss`, and {objective.name} has none.")
        object.__setattr__(self, "scored_as", tuple(self._losses.index(loss) for loss in self._losses))

    @property
    def networks(self) -> tuple[str, ...]:
        """The one network that is trained."""
        return self.objectives[0].networks

    @property
    def decodings(self) -> tuple[Decoding, ...]:
        """Those of all objectives, in order."""
        return decodings_of(*self.objectives)

    @property
    def _losses(self) -> list[Any]:
        return [objective.loss if isinstance(objective, TokenObjective) else None for objective in self.objectives]

    @property
    def reads_previous(self) -> bool:
        """True where one of the objectives reads the token before a row."""
        return any_reads_previous(self.objectives)

    def block_length(self, lengths: Mapping[str, int]) -> int:
        """The common length of the objectives' rows; UserError where they differ."""
        return _agreed_length(self, lengths)

    def assigned(self, keys: Key[Array, " B"], step: Step = 0) -> Int[Array, " B"]:
        """The number of each row's objective; neighbouring ranks (`rng.random_row_order`) share one."""
        shares = [rate_at(share, step) for share in self.shares]
        return apportioned(step, keys.shape[0], shares)[random_row_order(keys)]

    def drawn(self, keys: Key[Array, " B"], step: Step = 0) -> dict[str, Shaped[Array, "B ..."]]:
        """Columns: each row's objective, the realised share of each, and those that the objectives draw."""
        which = self.assigned(keys, step)
        shares = jnp.mean(which[:, None] == jnp.arange(len(self.objectives))[None, :], axis=0, dtype=jnp.float32)
        columns = {"objective": which, "shares": jnp.broadcast_to(shares[None, :], (keys.shape[0], shares.shape[0]))}
        for objective in self.objectives:
            columns |= batch_columns(objective, keys, step)
        return columns

    def corrupt(self, keys: Key[Array, " B"], batch: Batch, step: Step = 0) -> Example:
        """Each row corrupted by its own objective."""
        batch = {**self.drawn(keys, step), **batch}
        return self._mixed(batch["objective"], keys, batch, step)

    def targets(self, keys: Key[Array, " B"], batch: Batch, step: Step = 0) -> dict[str, Targets]:
        """Those of each objective in the rows that it got."""
        batch = {**self.drawn(keys, step), **batch}
        found = {objective.name: scored_in(objective.corrupt(keys, batch, step)) for objective in self.objectives}
        rows = [(batch["objective"] == index)[:, None] for index in range(len(self.objectives))]
        return {name: replace(each, scored=each.scored & mine) for (name, each), mine in zip(found.items(), rows)}

    def _mixed(self, which: Int[Array, " B"], keys: Key[Array, " B"], batch: Batch, step: Step) -> Example:
        # Each row's noise is that of its objective alone: no two objectives read the same row.
        examples = [_filled(objective.corrupt(keys, batch, step)) for objective in self.objectives]
        shapes = [[jax.tree.structure(example), *map(jnp.shape, jax.tree.leaves(example))] for example in examples]
        for objective, shape in zip(self.objectives, shapes):
            if shape != shapes[0]:
                raise UserError(
                    f"PerExample cannot mix {self.objectives[0].name} with {objective.name}: "
                    "their examples have different fields or lengths."
                )

        def chosen(*columns: Array) -> Array:
            mixed = columns[0]
            for index, column in enumerate(columns[1:], 1):
                mixed = jnp.where((which == index)[:, None], column, mixed)
            return mixed

        return jax.tree.map(chosen, *examples)

    def __call__(self, nets: Nets, batch: Batch, keys: Key[Array, " B"], step: Int[Array, ""]) -> dict[str, Term]:
        """The terms of every objective under its own name, and `NAME/share`, the share of rows that it got."""
        batch = {**self.drawn(keys, step), **batch}
        which = batch["objective"]
        real = jnp.any(batch["tokens"] != 0, axis=1)  # a row of padding is nobody's
        example = self._mixed(which, keys, batch, step)
        net = nets[self.networks[0]]
        hidden = net.hidden(example)
        targets, weights = example.decoder_target_tokens, example.decoder_loss_weights
        term_weights = [self._weight(index, batch, step) for index in range(len(self.objectives))]
        rows = {}
        for index in dict.fromkeys(self.scored_as):
            factors = self._factors(index, term_weights, example, batch)
            counts, loss = example.loss_counts, self._losses[index]
            rows[index] = score_rows(net.logits, hidden, targets, weights, loss, counts, factors)
        terms: dict[str, Term] = {}
        for index, (objective, loss) in enumerate(zip(self.objectives, self._losses)):
            mine = which == index
            terms |= rows[self.scored_as[index]].among(mine).terms(objective.name, loss, term_weights[index])
            shared, count = (jnp.sum(rows, dtype=jnp.float32) for rows in (mine & real, real))
            terms[f"{objective.name}/share"] = Term(shared, count, 0.0)
        return terms

    def _weight(self, index: int, batch: Batch, step: Step) -> Float[Array, ""]:
        """Weight of an objective's mean."""
        share = batch["shares"][0, index]
        return share if self.loss_weights is None else share * rate_at(self.loss_weights[index], step)

    def _factors(
        self, scored: int, term_weights: Sequence[Float[Array, ""]], example: Example, batch: Batch
    ) -> Float[Array, " B"] | None:
        """Weight of each row's total in the loss, `weight / count`; 0 for rows that another loss scores.

        None where the count is known only with the logits.
        """
        if not isinstance(self._losses[scored], CrossEntropy):
            return None
        which, factors = batch["objective"], jnp.zeros(example.loss_counts.shape[0])
        for index, objective in enumerate(self.objectives):
            mine = which == index
            here = jnp.sum(jnp.where(mine[:, None], example.loss_counts, 0.0))
            # The step knows those of the whole batch where this is a part of it.
            whole = batch.get(f"count/{objective.name}")
            count = here if whole is None else whole[0]
            if self.scored_as[index] == scored:
                mean = jnp.where(count > 0, term_weights[index] / jnp.where(count > 0, count, 1.0), 0.0)
                factors += jnp.where(mine, mean, 0.0)
        return factors


@dataclass(frozen=True)
class Sum:
    """`sum_i weight_i * loss_i`, each objective on the whole batch with noise of its own.

    UserError where two objectives' terms would share a name, or their rows' lengths differ.
    """

    traced: ClassVar[tuple[str, ...]] = ("weights",)
    objectives: tuple[Objective, ...]
    weights: tuple[float | Schedule, ...]
    name: str = "sum"

    def __post_init__(self) -> None:
        _as_tuples(self, "objectives", "weights")
        _check_names(self)
        _check_numbers(self, "weights", self.weights, len(self.objectives))

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks that any of the objectives trains."""
        return tuple({network: None for objective in self.objectives for network in objective.networks})

    @property
    def decodings(self) -> tuple[Decoding, ...]:
        """Those of all objectives, in order."""
        return decodings_of(*self.objectives)

    @property
    def reads_previous(self) -> bool:
        """True where one of the objectives reads the token before a row."""
        return any_reads_previous(self.objectives)

    def block_length(self, lengths: Mapping[str, int]) -> int:
        """The common length of the objectives' rows; UserError where they differ."""
        return _agreed_length(self, lengths)

    def targets(self, keys: Key[Array, " B"], batch: Batch, step: Step = 0) -> dict[str, Targets]:
        """Those of all objectives that say theirs."""
        parts = enumerate(self.objectives)
        found = [targets_of(objective, fold_rows(keys, index), batch, step) for index, objective in parts]
        return {name: each for part in found for name, each in part.items()}

    def __call__(self, nets: Nets, batch: Batch, keys: Key[Array, " B"], step: Int[Array, ""]) -> dict[str, Term]:
        """The terms of all objectives, their weights multiplied."""
        terms: dict[str, Term] = {}
        for index, (objective, weight) in enumerate(zip(self.objectives, self.weights)):
            found = objective(nets, batch, fold_rows(keys, index), step)
            for name in terms.keys() & found.keys():
                raise UserError(f"Sum has two terms named {name!r}, one of them of {objective.name}.")
            factor = rate_at(weight, step)
            terms |= {name: replace(term, weight=term.weight * factor) for name, term in found.items()}
        return terms


def _filled(example: Example) -> Example:
    """The example with its default segments and counts made explicit, so that rows can be exchanged."""
    return replace(example, decoder_segment_ids=example.decoder_segments, decoder_loss_counts=example.loss_counts)


def _as_tuples(owner: object, *names: str) -> None:
    # gin writes lists where a hash needs tuples.
    for name in names:
        if getattr(owner, name) is not None:
            object.__setattr__(owner, name, tuple(getattr(owner, name)))


def _check_names(mix: "PerExample | Sum") -> None:
    kind, names = type(mix).__name__, [objective.name for objective in mix.objectives]
    if not names:
        raise UserError(f"{kind} needs at least one objective.")
    if isinstance(mix, PerExample) and len(set(names)) < len(names):
        raise UserError(f"PerExample's objectives {' and '.join(names)} must have different names, or terms collide.")


def _check_numbers(owner: object, name: str, values: Sequence[Any], count: int | None = None) -> None:
    where = f"{type(owner).__name__}.{name} = {tuple(values)}"
    if count is not None and len(values) != count:
        raise UserError(f"{where} must have {count} entries, one for each objective.")
    for value in values:
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not isinstance(value, Schedule) and not (number and value >= 0):
            raise UserError(f"{where} must be numbers of at least 0, or schedules.")


def _agreed_length(mix: "PerExample | Sum", lengths: Mapping[str, int]) -> int:
    found = {objective.name: objective.block_length(lengths) for objective in mix.objectives}
    if len(set(found.values())) > 1:
        needs = ", ".join(f"{name} {length}" for name, length in found.items())
        raise UserError(f"{type(mix).__name__}'s objectives need rows of different lengths: {needs}.")
    return next(iter(found.values()))
