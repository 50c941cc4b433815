"""Unrolled diffusion (SUNDAE; AR2Diff, arXiv 2401.17181): predict all tokens, then predict them again from that."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from mixlm.example import Example
from mixlm.losses.score import score
from mixlm.losses.terms import Term
from mixlm.losses.token_losses import CrossEntropy, TokenLoss
from mixlm.objectives.base import Batch, Decoding, Nets, OneNetwork, Targets
from mixlm.objectives.corruption import (
    before_padding,
    block_mask,
    check_documents,
    check_rate,
    check_row_bos,
    decoder_inputs,
    document_segments,
    row_starts,
    sample,
)
from mixlm.rng import subkeys
from mixlm.schedules import Schedule, Step
from mixlm.tokens import TokenIds
from mixlm.values import added, check_number


@struct.dataclass
class FirstPass:
    """The first pass, corrupted without a network: its example, its target positions, and noise for the second."""

    first: Example
    scored: Bool[Array, "B T"]
    noise: Float[Array, "B T"]


class Unrolling(OneNetwork):
    """Base of SUNDAE's objectives, `L1 + L2`: a subclass says which targets are noised, and how (`first`)."""

    temperature: float
    loss: TokenLoss

    def first(self, keys: Key[Array, " B"], batch: Batch, step: Step = 0) -> FirstPass:
        """Tokens -> the first pass, and noise to sample the second with."""
        raise NotImplementedError

    def second(self, drawn: FirstPass, answer: Int[Array, "B T"]) -> Example:
        """The second pass: the answer in the targets' places, without a gradient, the prefix as it was."""
        shown = jnp.where(drawn.scored, jax.lax.stop_gradient(answer), drawn.first.decoder_target_tokens)
        starts = drawn.first.decoder_input_tokens[:, 0]  # noise never falls on it where inputs are shifted
        return replace(drawn.first, decoder_input_tokens=decoder_inputs(shown, starts, self.shifted))

    def shown(self, nets: Nets | None, keys: Key[Array, " B"], batch: Batch, step: Step = 0) -> tuple[Example, None]:
        """The first pass, or with networks the second; there is no encoder's input."""
        drawn = self.first(keys, batch, step)
        if nets is None:
            return drawn.first, None
        return self.second(drawn, self._scored(nets[self.network], drawn.first, drawn.noise).picked), None

    def targets(self, keys: Key[Array, " B"], batch: Batch, step: Step = 0) -> dict[str, Targets]:
        """The same targets for `denoise` and `unroll`."""
        drawn = self.first(keys, batch, step)
        return dict.fromkeys(("denoise", "unroll"), Targets(drawn.first.decoder_target_tokens, drawn.scored))

    def _scored(self, net: Any, example: Example, noise: Float[Array, "B T"] | None) -> Any:
        """Losses of one pass, and the network's answer where there is noise to sample it with."""
        pick = None if noise is None else partial(_answer, temperature=self.temperature)
        targets, weights = example.decoder_target_tokens, example.decoder_loss_weights
        return score(net.logits, net.hidden(example), targets, weights, self.loss, pick=pick, noise=noise)

    def __call__(self, nets: Nets, batch: Batch, keys: Key[Array, " B"], step: Int[Array, ""]) -> dict[str, Term]:
        """The terms `denoise` (L1) and `unroll` (L2), each the mean cost of a target token."""
        drawn, net = self.first(keys, batch, step), nets[self.network]
        denoised = self._scored(net, drawn.first, drawn.noise)
        unrolled = self._scored(net, self.second(drawn, denoised.picked), None)
        return denoised.terms("denoise", self.loss) | unrolled.terms("unroll", self.loss)


@dataclass(frozen=True)
class UnrolledDiffusion(Unrolling):
    """`L1 + L2`: the mean cost of a target token given noisy targets, and given the network's own answer to those.

    Per row a share a, uniform over [0, 1), of the target's tokens (each by itself) becomes a token uniform over the
    whole vocabulary, maybe the same again; L1 scores the original at every target position, changed or not. The answer
    x1, the likeliest tokens (`temperature` 0, which AR2Diff found best) or a sample, is read in a second pass, which is
    scored likewise; no gradient flows through x1. Where `prefix`, tokens before a split uniform over 0..T-1 are frozen:
    copied clean into both passes and not scored; else the whole row is the target. There is no noise level to read.

    Position i reads and predicts x_i, or where `shifted` reads the token before it. `bidirectional` is the mask's share
    (see `corruption.block_mask`), the prefix included: 1 is AR2Diff's, a schedule from 0 anneals from a causal network.
    `short_targets` of the rows (ours, so that padding is learned) have a target that ends early with EOS, at a uniform
    place; the padding after it is noised, read and scored as any other token, but that of the data is neither read nor
    scored. With `separate_documents` attention ends where a document does (`tokens.bos` starts one). `row_bos` is that
    of `Causal`.
    """

    name: ClassVar[str] = "unrolled_diffusion"
    traced: ClassVar[tuple[str, ...]] = ("short_targets",)
    tokens: TokenIds
    loss: TokenLoss = CrossEntropy()
    network: str = "model"
    shifted: bool = False
    prefix: bool = True
    temperature: float = 0.0
    short_targets: float = 0.0
    bidirectional: float | Schedule = 1.0
    separate_documents: bool = False
    row_bos: bool = added(True)

    def __post_init__(self) -> None:
        if self.separate_documents:
            check_documents(self.tokens)
        check_row_bos(self.row_bos, self.separate_documents)
        check_number(self, "temperature", 0)
        check_number(self, "short_targets", 0, 1)
        check_rate(self, "bidirectional")

    @property
    def decodings(self) -> tuple[Decoding, ...]:
        """Unrolled denoising from random tokens."""
        return (Decoding("unrolled", {"shifted": self.shifted}, self.network),)

    def first(self, keys: Key[Array, " B"], batch: Batch, step: Step = 0) -> FirstPass:
        """Tokens [B, T] -> the first pass, and noise [B, T] to sample the second with."""
        row_keys, block_keys, sample_keys = subkeys(keys, 3)
        length = batch["tokens"].shape[1]
        targets, noisy, scored = jax.vmap(self._corrupt_row)(row_keys, batch["tokens"])
        starts, real = row_starts(batch, self.tokens, self.row_bos), before_padding(batch["tokens"], self.tokens.pad)
        example = Example(
            decoder_input_tokens=decoder_inputs(noisy, starts, self.shifted),
            decoder_target_tokens=targets,
            decoder_loss_weights=scored.astype(jnp.float32),
            decoder_mask_ar=block_mask(block_keys, length, self.bidirectional, step),
            decoder_segment_ids=self._segments(targets, starts, real),
        )
        return FirstPass(example, scored, jax.vmap(lambda key: jax.random.uniform(key, (length,)))(sample_keys))

    def _segments(
        self, targets: Int[Array, "B T"], starts: int | Int[Array, " B"], real: Bool[Array, "B T"]
    ) -> Int[Array, "B T"]:
        # The padding of a short target is a token like any other here: it is read, and learned.
        padded_by_data = jnp.where(real, self.tokens.eos, self.tokens.pad)
        if not self.separate_documents:
            return real.astype(targets.dtype)
        return document_segments(decoder_inputs(targets, starts, self.shifted), padded_by_data, self.tokens)

    def _corrupt_row(
        self, key: Key[Array, ""], row: Int[Array, " T"]
    ) -> tuple[Int[Array, " T"], Int[Array, " T"], Bool[Array, " T"]]:
        """Returns (targets, the same with noise, the mask of scored positions)."""
        split_key, short_key, end_key, share_key, place_key, token_key = jax.random.split(key, 6)
        length, place = row.shape[0], jnp.arange(row.shape[0])
        split = jax.random.randint(split_key, (), 0, length) if self.prefix else jnp.zeros((), jnp.int32)
        end = jax.random.randint(end_key, (), split, length)
        end = jnp.where(jax.random.uniform(short_key) < self.short_targets, end, length)
        real = before_padding(row, self.tokens.pad)
        targets = jnp.where(place < end, row, jnp.where((place == end) & real, self.tokens.eos, self.tokens.pad))
        scored = (place >= split) & real
        changed = jax.random.uniform(place_key, (length,)) < jax.random.uniform(share_key)
        noise = jax.random.randint(token_key, (length,), 0, self.tokens.vocab_size)
        return targets, jnp.where(scored & changed, noise, targets), scored


def _answer(logits: Float[Array, "*n V"], noise: Float[Array, "*n"], temperature: float) -> Int[Array, "*n"]:
    """The likeliest token at temperature 0, else a sample."""
    return sample(logits, noise, temperature) if temperature else jnp.argmax(logits, axis=-1).astype(jnp.int32)
