"""Yardsticks of validation: what a model without context, or with one token of it, pays for the very same targets.

`unigram` is the entropy of the targets that validation scores, the loss of the best model without context.

    H = -sum_x q(x) log q(x),  q(x) the share of x among the scored targets

`bigram` is what a bigram model pays for them that was counted over the rows that the run itself trains on, corrupted by
the same objective: at most one epoch, and COUNTED tokens. y is the token before x in the text of the targets, whether
it is scored or not; of span corruption that text is the spans with their sentinels. Interpolated as Witten and Bell do
(method C of IEEE Transactions on Information Theory 37, 1991), k(y) being the number of kinds of tokens that follow y:

    p(x | y) = (c(y, x) + k(y) p(x)) / (c(y) + k(y)),  p(x) = (c(x) + 1) / (N + V)

Both are means over scored targets, each counted once. `labels` is the entropy of a detector's labels on the validation
text and `majority` the accuracy of who always says the more frequent label, both from the share of replaced tokens.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from mixlm.data.loader.batches import as_batch
from mixlm.objectives.base import Objective
from mixlm.rng import row_keys
from mixlm.training.targets import targets_by_term

YARDSTICK = "yardstick/"
COUNTED = 2**20  # Ours: tokens of training rows, gone through in seconds.
COLUMNS = ("before", "tokens", "scored")
NOTHING = -1  # the token before the first of a row


@dataclass(frozen=True)
class Pairs:
    """Tokens with the token before each, NOTHING where there is none; `scored` marks those that validation scores.

    `of_text` where they are the rows' own tokens.
    """

    before: Int64[np.ndarray, " N"]
    tokens: Int64[np.ndarray, " N"]
    scored: Bool[np.ndarray, " N"]
    of_text: bool = False

    def only_scored(self) -> "Pairs":
        """The scored ones alone."""
        return Pairs(self.before[self.scored], self.tokens[self.scored], self.scored[self.scored], self.of_text)


def yardsticks(prepared: Any, found: Mapping[str, float]) -> dict[str, float]:
    """The figures `yardstick/TERM/KIND` of the terms whose `validation/TERM` is among `found`.

    A term whose objective does not say its targets has none.
    """
    recipe, figures = prepared.recipe, {}
    rows = list(_training_rows(prepared))
    text = Bigrams(_joined([_pairs(batch["tokens"], None, batch, recipe.tokens.pad) for batch in rows]), recipe)
    for objective in recipe.validated:
        validated = _targets_by_term(objective, recipe, prepared.validation_batches)
        shown = {name: pairs for name, pairs in validated.items() if f"validation/{name}" in found}
        # Most objectives score the text itself, whose pairs are counted once for all.
        others = any(not pairs.of_text for pairs in shown.values())
        trained = _targets_by_term(objective, recipe, rows) if others else {}
        for name, pairs in shown.items():
            targets = pairs.only_scored()
            if len(targets.tokens):
                figures[f"{YARDSTICK}{name}/unigram"] = entropy(targets.tokens)
                bigrams = text if pairs.of_text else Bigrams(trained[name], recipe)
                figures[f"{YARDSTICK}{name}/bigram"] = bigrams.cost(targets)
    return figures | of_labels(found)


def of_labels(found: Mapping[str, Any]) -> dict[str, float]:
    """The figures of detectors, by the share of labels that are true in the same validation."""
    figures = {}
    for name, share in found.items():
        if name.startswith("validation/") and name.endswith("/replaced"):
            term = name.removeprefix("validation/").removesuffix("/replaced")
            figures[f"{YARDSTICK}{term}/labels"] = label_entropy(share)
            figures[f"{YARDSTICK}{term}/majority"] = max(share, 1 - share)
    return figures


def entropy(tokens: Int64[np.ndarray, " N"]) -> float:
    """The entropy of the tokens' own distribution, in nats."""
    counts = np.unique(tokens, return_counts=True)[1]
    share = counts / counts.sum()
    return float(-(share * np.log(share)).sum())


def label_entropy(share: float) -> float:
    """The entropy of a label that is true with probability `share`, in nats."""
    return -sum(p * math.log(p) for p in (share, 1 - share) if p > 0)


class Bigrams:
    """A bigram model by the counts of `trained` (see the module's formula)."""

    def __init__(self, trained: Pairs, recipe: Any) -> None:
        self._size = size = recipe.tokens.vocab_size
        # A pair is one number; NOTHING comes first.
        self._pairs, self._counts = np.unique((trained.before + 1) * size + trained.tokens, return_counts=True)
        firsts = self._pairs // size
        self._totals = np.bincount(firsts, weights=self._counts, minlength=size + 1)
        self._kinds = np.bincount(firsts, minlength=size + 1)
        self._alone = (np.bincount(trained.tokens, minlength=size) + 1) / (len(trained.tokens) + size)

    def cost(self, targets: Pairs) -> float:
        """The mean of `-log p(x | y)` over the targets, in nats."""
        before, alone = targets.before + 1, self._alone[targets.tokens]
        wanted = before * self._size + targets.tokens
        place = np.minimum(np.searchsorted(self._pairs, wanted), len(self._pairs) - 1)
        seen = np.where(self._pairs[place] == wanted, self._counts[place], 0)
        total, kinds = self._totals[before] + self._kinds[before], self._kinds[before]
        together = (seen + kinds * alone) / np.maximum(total, 1)
        return float(-np.log(np.where(total > 0, together, alone)).mean())


def _training_rows(prepared: Any) -> Iterator[Mapping[str, np.ndarray]]:
    """The batches of the run, of one epoch at most and COUNTED tokens."""
    recipe, blocks = prepared.recipe, prepared.train_blocks
    rows = recipe.batch_size * recipe.block_length
    most = min(recipe.steps, max(int(min(COUNTED, blocks.num_tokens)) // rows, 1))
    for step in range(most):
        yield as_batch(blocks.rows(step, recipe.batch_size, np.arange(recipe.batch_size), recipe.before), recipe.before)


def _targets_by_term(objective: Objective, recipe: Any, batches: Iterable[Mapping[str, Any]]) -> dict[str, Pairs]:
    """The pairs of each term in some rows, corrupted with the noise of their number."""
    found: dict[str, list[Pairs]] = {}
    for index, batch in enumerate(batches):
        keys = row_keys(recipe.seed, index, len(batch["tokens"]))
        for name, (tokens, scored) in targets_by_term(objective, keys, batch, recipe.steps).items():
            found.setdefault(name, []).append(_pairs(tokens, scored, batch, recipe.tokens.pad))
    return {name: _joined(parts) for name, parts in found.items()}


def _pairs(tokens: np.ndarray, scored: np.ndarray | None, batch: Mapping[str, Any], pad: int) -> Pairs:
    """The pairs of some rows, without padding that is not scored; all are scored where it is not said."""
    of_text, tokens = np.array_equal(tokens, batch["tokens"]), tokens.astype(np.int64)
    scored = tokens != pad if scored is None else scored
    previous = batch.get("previous", np.full(len(tokens), pad))
    before = np.column_stack([np.where(previous == pad, NOTHING, previous), tokens[:, :-1]])
    kept = scored | (tokens != pad)
    return Pairs(before[kept], tokens[kept], scored[kept], of_text)


def _joined(parts: list[Pairs]) -> Pairs:
    before, tokens, scored = (np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS)
    return Pairs(before, tokens, scored, of_text=all(part.of_text for part in parts))
