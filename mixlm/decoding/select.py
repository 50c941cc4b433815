"""Selects the strategy that continues a recipe's prompts: by name, or as its last stage was trained."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from mixlm.decoding.strategies import STRATEGIES, Strategy
from mixlm.errors import UserError, nearest
from mixlm.network import EncoderDecoderNetwork
from mixlm.objectives.base import Decoding, Objective, decodings_of
from mixlm.objectives.curriculum import Blocks
from mixlm.recipe import Recipe


@dataclass(frozen=True)
class Selection:
    """A strategy by its name, the network that it runs, and the settings that follow from training.

    `trained` is False where no stage of the recipe trains the strategy.
    """

    how: str
    network: str
    trained: bool = True
    as_trained: Mapping[str, Any] = field(default_factory=dict)

    def strategy(self, settings: Mapping[str, Any]) -> Strategy:
        """The strategy as it was trained, and as `settings` say; UserError for a setting that it does not have."""
        kind = STRATEGIES[self.how]
        known = [each.name for each in fields(kind) if not each.metadata.get("as_trained")]
        for name in settings:
            if name not in known:
                raise UserError(
                    f"{name} has no effect on {self.how} decoding, whose settings are {', '.join(known)}."
                    f"{nearest(name, known)}"
                )
        return kind(**{**self.as_trained, **settings})


def trained_selections(recipe: Recipe) -> list[Selection]:
    """The decodings that the recipe's objectives train, its last stage first."""
    return [_selection(decoding) for decoding in decodings_of(*reversed(trained_objectives(recipe)))]


def trained_objectives(recipe: Recipe) -> list[Objective]:
    """The objective of each stage that the run reaches, in their order."""
    curriculum = recipe.curriculum
    if isinstance(curriculum, Blocks):
        return [curriculum.objectives[name] for _, name in curriculum.blocks]
    steps = recipe.train_steps
    # A stage that the run never reaches trains nothing.
    spans = [(stage, 0) for stage in curriculum.stages] if steps is None else curriculum.spans(steps)
    return [stage.objective for stage, _ in spans]


def select(recipe: Recipe, how: str | None = None) -> Selection:
    """The strategy called `how`, or by default what the last stage trains; UserError for a name that there is not.

    Where no objective says how it is decoded, it is what the network can do.
    """
    if how is not None and how not in STRATEGIES:
        raise UserError(f"There is no decoding {how!r}, only {', '.join(STRATEGIES)}.{nearest(how, STRATEGIES)}")
    trained = trained_selections(recipe)
    for each in trained:
        if how in (None, each.how):
            return each
    network = trained[0].network if trained else recipe.declared[0].networks[0]
    spans = isinstance(recipe.networks[network], EncoderDecoderNetwork)
    return Selection(how or ("spans" if spans else "autoregressive"), network, trained=False)


def _selection(decoding: Decoding) -> Selection:
    name = decoding.strategy
    if name not in STRATEGIES:
        raise UserError(
            f"An objective names the decoding {name!r}, and there are {', '.join(STRATEGIES)}."
            f"{nearest(name, STRATEGIES)}"
        )
    known = [each.name for each in fields(STRATEGIES[name])]
    for setting in decoding.settings:
        if setting not in known:
            raise UserError(
                f"An objective gives {name} decoding a setting {setting!r}, and it has {', '.join(known)}."
                f"{nearest(setting, known)}"
            )
    return Selection(name, decoding.network, as_trained=decoding.settings)
