"""Which ways of decoding a recipe trains, and the one that a command asks for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from mixlm.decoding.strategies import Autoregressive, Masked, Spans, Unrolled, has_encoder
from mixlm.errors import UserError, nearest
from mixlm.objectives.causal import Causal
from mixlm.objectives.curriculum import Blocks
from mixlm.objectives.masked_diffusion import MaskedDiffusion
from mixlm.objectives.masked_lm import MaskedLM
from mixlm.objectives.prefix_lm import PrefixLM
from mixlm.objectives.span_corruption import SpanCorruption
from mixlm.objectives.unrolled_diffusion import UnrolledDiffusion
from mixlm.recipe import Recipe

DECODERS: Mapping[str, Any] = {
    "autoregressive": Autoregressive,
    "unrolled": Unrolled,
    "masked": Masked,
    "spans": Spans,
}


_TRAINS: tuple[tuple[Any, str], ...] = (
    ((Causal, PrefixLM), "autoregressive"),
    (UnrolledDiffusion, "unrolled"),
    ((MaskedDiffusion, MaskedLM), "masked"),
    (SpanCorruption, "spans"),
)


@dataclass(frozen=True)
class Way:
    """A way to decode by its name, the network, and the part of an objective that trains it, None where none does."""

    how: str
    network: str
    objective: Any = None

    def decoder(self, given: Mapping[str, Any]) -> Any:
        """Decodes as the objective trained it, and as flags say; UserError for a flag that this way does not read."""
        kind = DECODERS[self.how]
        known = [field.name for field in fields(kind) if field.name not in ("shifted", "start")]
        for name in given:
            if name not in known:
                raise UserError(f"{name} has no effect on {self.how} decoding, whose settings are {', '.join(known)}.")
        return kind(**self._as_trained(kind) | dict(given))

    def _as_trained(self, kind: Any) -> dict[str, Any]:
        objective = self.objective
        if objective is None:
            return {}
        if kind is Autoregressive:
            return {"prefix": getattr(objective, "bidirectional_prefix", False)}
        if kind is Unrolled:
            return {"shifted": objective.shifted}
        if kind is Masked:
            return {"shifted": objective.shifted, "start": objective.separate_documents}
        return {}


def trained_ways(recipe: Recipe) -> list[Way]:
    """What the recipe trains, its last stage first."""
    curriculum = recipe.curriculum
    if isinstance(curriculum, Blocks):
        stages = [curriculum.objectives[name] for _, name in curriculum.blocks]
    else:
        steps = recipe.train_steps
        spans = [(stage, 0) for stage in curriculum.stages] if steps is None else curriculum.spans(steps)
        stages = [stage.objective for stage, _ in spans]
    return [
        Way(how, part.network, part)
        for objective in reversed(stages)
        for part in _parts(objective)
        for kinds, how in _TRAINS
        if isinstance(part, kinds)
    ]


def way_of(recipe: Recipe, how: str | None = None) -> Way:
    """The way called `how`, or by default what the last stage trains; UserError for a name that there is not.

    Where that objective is none of ours, it is what the network can do.
    """
    if how is not None and how not in DECODERS:
        known = ", ".join(DECODERS)
        raise UserError(f"There is no way to decode called {how!r}, only {known}.{nearest(how, DECODERS)}")
    ways = trained_ways(recipe)
    for way in ways:
        if how in (None, way.how):
            return way
    network = ways[0].network if ways else recipe.declared[0].networks[0]
    return Way(how or ("spans" if has_encoder(recipe.networks[network]) else "autoregressive"), network)


def _parts(value: Any) -> Iterator[Any]:
    """An objective and the objectives that it is made of."""
    yield value
    for field in fields(value) if is_dataclass(value) else ():
        held = getattr(value, field.name)
        for part in held if isinstance(held, tuple) else (held,):
            if is_dataclass(part):
                yield from _parts(part)
