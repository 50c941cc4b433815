"""Scoring modes of a network, by name."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from mixlm.errors import UserError, nearest
from mixlm.evaluation.base import Mode, NamedMode
from mixlm.evaluation.likelihood import CausalLikelihood, DiffusionBound, Fused, PrefixLikelihood, PseudoLikelihood
from mixlm.evaluation.reading import Context
from mixlm.evaluation.span_likelihood import AfterPrefix, EachSpan, Everything, SpanFilling
from mixlm.network import EncoderDecoderNetwork, Network
from mixlm.tokens import TokenIds

# Ours: long enough for T5's mean span of 3 tokens, which is what span corruption trains.
LONG_SPAN = 3
# Following BERTs are generative in-context learners: the scored token and the next two are masked (remembered).
FOLLOWING = 2


def modes_of(
    module: Any,
    tokens: TokenIds,
    samples: int = 16,
    seed: int = 0,
    context: Context | None = None,
    answer: bool = False,
    words: bool = False,
) -> dict[str, Mode | Fused]:
    """Every mode that a network can be scored in, by name; UserError for one that predicts no tokens.

    A decoder can be read causally, by a prefix, and masked with either convention, whatever it was trained for, and
    reads a sentence in `context` (None: each mode in its own). An encoder-decoder, which is read in no other context,
    predicts the whole sentence, the rest after the prefix, or one span after the other, always as the span of a
    sentinel, which is how span corruption trains it. With `answer` the prefix of a sentence, which is a question, is
    read and not scored. With `words` there are the modes that mask the rest of a word, for sentences with words.
    """
    if not isinstance(module, Network):
        raise UserError(f"{type(module).__name__} has no logits(); nothing to score.")
    if isinstance(module, EncoderDecoderNetwork):
        if context is not None:
            raise UserError(
                f"CONTEXT is for decoders: {type(module).__name__} reads a sentence around a sentinel; leave it None."
            )
        return _encoder_decoder_modes(module, tokens, answer)
    masked = partial(PseudoLikelihood, tokens, context=context, answer=answer)
    found: dict[str, Mode] = {"causal": CausalLikelihood(tokens, context=context, answer=answer)}
    found["prefix"] = PrefixLikelihood(tokens, context=context)
    for name, shifted in (("shifted", True), ("unshifted", False)):
        found[f"pll_{name}"] = masked(shifted)
        found[f"pll_{name}_next{FOLLOWING}"] = masked(shifted, FOLLOWING)
        if words:
            found[f"pll_{name}_word"] = masked(shifted, word=True)
    for name, shifted in (("shifted", True), ("unshifted", False)):
        found[f"diffusion_{name}"] = DiffusionBound(tokens, shifted, samples, seed, context=context, answer=answer)
    fused = {f"fused_{name}": Fused((found["causal"], found[f"pll_{name}"])) for name in ("shifted", "unshifted")}
    return {**found, **fused}


def _encoder_decoder_modes(module: Any, tokens: TokenIds, answer: bool) -> dict[str, Mode | Fused]:
    if tokens.sentinels < 1:
        raise UserError(f"{type(module).__name__} is scored by filling spans, and the vocabulary has no sentinels.")
    whole, each = SpanFilling(tokens, Everything(answer)), SpanFilling(tokens, EachSpan(1, answer))
    return {
        "causal": whole,
        "prefix": SpanFilling(tokens, AfterPrefix()),
        "filling": each,
        f"filling_{LONG_SPAN}": SpanFilling(tokens, EachSpan(LONG_SPAN, answer)),
        "fused": Fused((whole, each)),
    }


def with_extra(modes: Mapping[str, Mode | Fused], extra: Sequence[Any]) -> dict[str, Mode | Fused]:
    """The modes of a network and those from outside, by their own names; UserError where two share a name."""
    found = dict(modes)
    for mode in extra:
        if not isinstance(mode, NamedMode):
            raise UserError(f"EXTRA_MODES holds {mode!r}, and a mode has name, kind, copies(), scored() and a call.")
        if mode.name in found:
            raise UserError(f"EXTRA_MODES holds a second scoring mode named {mode.name!r}; give it another name.")
        found[mode.name] = mode
    return found


def select_modes(modes: Mapping[str, Mode | Fused], names: str | Sequence[str] | None) -> dict[str, Mode | Fused]:
    """The modes of these names (a text may hold several, with commas), all for None; UserError for an unknown one."""
    if names is None:
        return dict(modes)
    wanted = [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]
    if not any(wanted):
        raise UserError(f"MODES = {names!r} names no scoring mode: give some of {', '.join(modes)}, or None for all.")
    for name in wanted:
        if name not in modes:
            raise UserError(
                f"This network has no scoring mode {name!r} (MODES), only {', '.join(modes)}.{nearest(name, modes)}"
            )
    return {name: modes[name] for name in wanted}
