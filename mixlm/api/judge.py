"""`judge`: one minimal pair of one's own, scored in every mode of a run's network, token by token."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from mixlm.api.functions import recipe_of
from mixlm.api.run import Run
from mixlm.errors import UserError, nearest
from mixlm.evaluation.item_scores import SIDES, pair_items
from mixlm.evaluation.pair_files import Paradigm
from mixlm.evaluation.run import Scoring, prepare
from mixlm.files import check_text
from mixlm.perf.compilation_cache import EXECUTABLES, kept_in
from mixlm.recipe import Recipe
from mixlm.reports.shading import ShadedToken, ShadedTokens
from mixlm.reports.table import Table


class Judgement(Table):
    """A row for each mode: log-probabilities of the good and the bad sentence in nats, their difference, the verdict.

    `right` is True where the good one is the likelier. Pseudo-likelihoods are compared with each other alone.
    """

    def __init__(self, records: Sequence[Mapping[str, Any]]) -> None:
        self._records = records
        good, bad = (each["scores"] for each in records)
        rows = [
            {"mode": mode, "good": good[mode], "bad": bad[mode], "difference": good[mode] - bad[mode]}
            | {"right": good[mode] > bad[mode]}
            for mode in good
        ]
        super().__init__(rows)

    def shaded(self, mode: str) -> ShadedTokens:
        """Both sentences, each token shaded by what it costs in a mode, in nats; one that is not scored has no shade.

        Raises UserError for a mode that was not judged.
        """
        if mode not in self["mode"]:
            raise UserError(f"The pair was not judged in a mode {mode!r}.{nearest(mode, self['mode'])}")
        rows = tuple(tuple(_token(token, mode) for token in each["tokens"]) for each in self._records)
        return ShadedTokens(rows, f"cost of a token in the mode {mode}, nats", titles=SIDES)


def judge(
    run: Run | Recipe | str | os.PathLike[str],
    good: str,
    bad: str,
    modes: str | Sequence[str] | None = ("causal", "pll_shifted", "pll_unshifted"),
) -> Judgement:
    """Scores a minimal pair in modes of a run's network.

    Args:
      run: the run, its recipe or its folder.
      good: the sentence that should be the likelier one.
      bad: the other one.
      modes: names of modes whose tokens have scores; None is all of them.

    Returns:
      A table with a row for each mode; `shaded(mode)` shows both sentences token by token.

    Raises:
      UserError: for a folder without a run, an empty sentence, and a mode that there is not.

    Example: `judge("runs/a", "The ships have returned.", "The ships has returned.").shaded("causal")`.
    """
    for sentence, name in ((good, "good"), (bad, "bad")):
        check_text(sentence, f"The {name} sentence")
    recipe = recipe_of(run)
    chosen = modes if modes is None or isinstance(modes, str) else tuple(modes)
    pair = Paradigm("pair", "pair", "pair", ((good, bad),), ("The pair",))
    with kept_in(recipe.dataset.cache / EXECUTABLES):
        # No text is scored; a prepared run has one all the same.
        prepared = prepare(recipe, Scoring(modes=chosen), lambda line: None, lambda: [good], (pair,))
        assert prepared.pairs is not None
        return Judgement(list(pair_items(prepared, prepared.pairs, tokens=True)))


def _token(token: Mapping[str, Any], mode: str) -> ShadedToken:
    score = token["scores"].get(mode)
    # A token that is not scored is NaN.
    return ShadedToken(token["text"], None if score is None or score != score else -score)
