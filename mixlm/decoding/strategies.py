"""Decoding strategies, each a value: how prompts are read, and how the new tokens are generated.

Their fields are settings of the command line and of `decode_texts`, but for those that follow from training.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
from jaxtyping import Array, Key

from mixlm.decoding.autoregressive import (
    Decoded,
    checked_sampler,
    decode_autoregressive,
    decoder_prompts,
    encoder_prompts,
)
from mixlm.decoding.beam import LENGTH_PENALTY, beam_search
from mixlm.decoding.diffusion import ORDERS, decode_masked, decode_unrolled, unmask_plan
from mixlm.errors import UserError, nearest
from mixlm.example import Example
from mixlm.network import EncoderDecoderNetwork
from mixlm.tokens import TokenIds

MASKED_STEPS = 32  # Ours: the default, or one step a token where the text is shorter.


def as_trained(default: Any) -> Any:
    """A field that follows from training, and is no setting of a user."""
    return field(default=default, metadata={"as_trained": True})


@runtime_checkable
class Strategy(Protocol):
    """Reads prompts and continues them; a frozen dataclass."""

    @property
    def texts(self) -> int:
        """Texts that a network call reads for one prompt: its beams, or its samples."""
        ...

    def read(self, module: nn.Module, rows: Sequence[Sequence[int]], ids: TokenIds) -> Example:
        """Prompts in tokens, as the network reads them."""
        ...

    def __call__(
        self, module: nn.Module, params: Any, prompt: Example, keys: Key[Array, " B"], length: int, ids: TokenIds
    ) -> Decoded:
        """At most `length` new tokens for each prompt; the noise of a row comes from its key."""
        ...


@dataclass(frozen=True)
class Autoregressive:
    """Token after token: greedy (temperature 0), sampled, or by beam search.

    With `prefix` the prompt attends to all of itself. An encoder-decoder reads it with its encoder, followed by EOS; so
    does, as a bidirectional prefix, a decoder that was trained on `encoded` prompts. With `ended` no EOS is added:
    the prompts are those of a task, which has its own where it trains with one.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    beams: int = 1
    length_penalty: float | None = None
    prefix: bool = False
    encoded: bool = as_trained(False)
    ended: bool = as_trained(False)

    def __post_init__(self) -> None:
        _check(beams=self.beams)
        checked_sampler(self.temperature, self.top_k, self.top_p)
        if self.beams > 1 and self.temperature > 0:
            raise UserError(
                f"{self.beams} beams look for the likeliest text and draw nothing: leave the temperature out."
            )
        if self.length_penalty is None:
            return
        if self.beams == 1:
            raise UserError("length_penalty compares the texts of several beams: give beams as well.")
        if not 0 <= self.length_penalty < math.inf:
            raise UserError(f"length_penalty is a number from 0 on, got {self.length_penalty}.")

    @property
    def texts(self) -> int:
        """The beams."""
        return self.beams

    def read(self, module: nn.Module, rows: Sequence[Sequence[int]], ids: TokenIds) -> Example:
        """BOS and the prompt, or the encoder's prompt."""
        if not (self.encoded or has_encoder(module)):
            return decoder_prompts([[ids.bos, *row] for row in rows], bidirectional=self.prefix)
        if self.prefix:
            raise UserError("An encoder reads its prompt in both directions anyway: leave prefix out.")
        return encoder_prompts([[*row, *([] if self.ended else [ids.eos])] for row in rows], ids.bos)

    def __call__(
        self, module: nn.Module, params: Any, prompt: Example, keys: Key[Array, " B"], length: int, ids: TokenIds
    ) -> Decoded:
        """Until EOS, or until there are `length` tokens."""
        if self.beams > 1:
            penalty = LENGTH_PENALTY if self.length_penalty is None else self.length_penalty
            return beam_search(module, params, prompt, penalty, self.beams, length, ids)
        sampler = checked_sampler(self.temperature, self.top_k, self.top_p)
        return decode_autoregressive(module, params, prompt, keys, sampler, length, ids)


@dataclass(frozen=True)
class Spans:
    """Fills each `<extra_id_k>` of the prompt, which an encoder reads with EOS as in training.

    A network without an encoder reads it as a bidirectional prefix.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    beams: int = 1
    length_penalty: float | None = None

    def __post_init__(self) -> None:
        _ = self.autoregressive

    @property
    def texts(self) -> int:
        """The beams."""
        return self.beams

    @property
    def autoregressive(self) -> Autoregressive:
        """The decoding of the targets."""
        return Autoregressive(self.temperature, self.top_k, self.top_p, self.beams, self.length_penalty)

    def read(self, module: nn.Module, rows: Sequence[Sequence[int]], ids: TokenIds) -> Example:
        """The encoder's prompt; UserError for one without a span to fill."""
        for index, row in enumerate(rows):
            if not any(0 <= ids.first_sentinel - token < ids.sentinels for token in row):
                raise UserError(f"Prompt {index + 1} has no span to fill: mark one with <extra_id_0>.")
        return encoder_prompts([[*row, ids.eos] for row in rows], ids.bos)

    def __call__(
        self, module: nn.Module, params: Any, prompt: Example, keys: Key[Array, " B"], length: int, ids: TokenIds
    ) -> Decoded:
        """The targets of span corruption: each sentinel and its span, then EOS."""
        return self.autoregressive(module, params, prompt, keys, length, ids)


@dataclass(frozen=True)
class Unrolled:
    """AR2Diff's decoding with its defaults: the best of 8 samples, each of 10 steps at temperature 0.2."""

    steps: int = 10
    samples: int = 8
    temperature: float = 0.2
    top_k: int = 0
    top_p: float = 1.0
    shifted: bool = as_trained(False)

    def __post_init__(self) -> None:
        _check(steps=self.steps, samples=self.samples)
        checked_sampler(self.temperature, self.top_k, self.top_p)

    @property
    def texts(self) -> int:
        """The samples."""
        return self.samples

    def read(self, module: nn.Module, rows: Sequence[Sequence[int]], ids: TokenIds) -> Example:
        """The prompt, after BOS where shifted."""
        return diffusion_prompts(module, rows, ids, self.shifted)

    def __call__(
        self, module: nn.Module, params: Any, prompt: Example, keys: Key[Array, " B"], length: int, ids: TokenIds
    ) -> Decoded:
        """A target of `length` tokens, the text in it as long as the network makes it."""
        sampler = checked_sampler(self.temperature, self.top_k, self.top_p)
        return decode_unrolled(
            module, params, prompt, keys, sampler, length, self.steps, self.samples, self.shifted, ids
        )


@dataclass(frozen=True)
class Masked:
    """Masked diffusion: `order` says which tokens go first, `block_length` of them are finished before the next.

    `start`: the prompt begins with the start token, as it always does where shifted.
    """

    steps: int | None = None
    order: str = "confidence"
    block_length: int | None = None
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    shifted: bool = as_trained(True)
    start: bool = as_trained(False)

    def __post_init__(self) -> None:
        checked_sampler(self.temperature, self.top_k, self.top_p)
        if self.order not in ORDERS:
            known = " or ".join(ORDERS)
            raise UserError(f"order is {known}, not {self.order!r}.{nearest(self.order, ORDERS)}")
        if self.steps is not None:
            _check(steps=self.steps)
        if self.block_length is not None:
            _check(block_length=self.block_length)

    @property
    def texts(self) -> int:
        """The one."""
        return 1

    def read(self, module: nn.Module, rows: Sequence[Sequence[int]], ids: TokenIds) -> Example:
        """The prompt, after BOS where there is one in training."""
        return diffusion_prompts(module, rows, ids, self.shifted or self.start)

    def __call__(
        self, module: nn.Module, params: Any, prompt: Example, keys: Key[Array, " B"], length: int, ids: TokenIds
    ) -> Decoded:
        """A target of `length` tokens, all of them unmasked; UserError for steps that would unmask nothing."""
        blocks = math.ceil(length / (self.block_length or length))
        steps = max(blocks, min(MASKED_STEPS, length)) if self.steps is None else self.steps
        if steps > length and self.order == "confidence":
            raise UserError(
                f"{steps} steps cannot each unmask one of {length} tokens: give fewer steps, or the ancestral order."
            )
        plan = unmask_plan(length, steps, self.block_length)
        sampler = checked_sampler(self.temperature, self.top_k, self.top_p)
        return decode_masked(module, params, prompt, keys, sampler, plan, ORDERS[self.order], length, self.shifted, ids)


STRATEGIES: Mapping[str, Any] = {
    "autoregressive": Autoregressive,
    "unrolled": Unrolled,
    "masked": Masked,
    "spans": Spans,
}


def _check(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise UserError(f"{name} must be at least 1, got {number}.")


def has_encoder(module: nn.Module) -> bool:
    """True for a network that reads prompts with an encoder."""
    return isinstance(module, EncoderDecoderNetwork)


def diffusion_prompts(module: nn.Module, rows: Sequence[Sequence[int]], ids: TokenIds, start: bool) -> Example:
    """Bidirectional prompts; UserError for an encoder-decoder."""
    if has_encoder(module):
        raise UserError(f"Diffusion needs a bidirectional network, and {type(module).__name__} has a causal decoder.")
    return decoder_prompts([[ids.bos, *row] if start else row for row in rows], bidirectional=True)
