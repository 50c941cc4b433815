"""Masked diffusion (Dual, arXiv 2512.14549, section 3): a share t of a row is masked and predicted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from mixlm.errors import UserError
from mixlm.example import Example
from mixlm.losses.token_losses import CrossEntropy, TokenLoss
from mixlm.objectives.base import Batch, Corruption, Decoding
from mixlm.objectives.corruption import (
    block_mask,
    check_documents,
    check_rate,
    check_row_bos,
    decoder_inputs,
    document_segments,
    mask_k_lowest,
    maskable,
    row_starts,
    scored_targets,
)
from mixlm.rng import stratified_levels, subkeys
from mixlm.schedules import Schedule, Step
from mixlm.tokens import TokenIds
from mixlm.values import added, check_number


@dataclass(frozen=True)
class MaskedDiffusion(Corruption):
    """`1/L * sum_{i masked} -log p(x_i | x with masks) / p`, whose mean over noise bounds the cost of a token.

    Of a row's L tokens, k = max(1, floor(L t + u)) become <mask> and are predicted, t and u uniform over [0, 1): an
    exact count, every set of k equally likely, p = k / L the realised rate. As in the release, k = 1 is half again as
    likely as the counts between, and k = L half as likely, where the bound's integral has them alike: the mean lies off
    it by the difference of those two counts' costs over 2 L. Special tokens (see `corruption.maskable`) are never
    masked. The mean divides by all positions, so that uniform logits cost log V exactly; a row that is all special
    counts for nothing. L leaves padding out.

    Where `shifted` (the paper's masked next-token prediction) position i reads the token before x_i and predicts x_i,
    so that the last target is not among the inputs. We draw the mask over all T targets, which keeps the weights' sum
    at T. `score_last` is the release: it masks among the T tokens that are read, where p = k / T as well, and always
    scores the last target too, also by 1/p (unless it is a BOS and `score_bos` is off). A mask on the first input is no
    target's. So a position weighs (T - 1) / T + E[1 / k] where it should weigh 1, such as 1.111 at T = 32; in a row
    that begins with BOS, which is never masked, it is 1 + E[1 / k]. `row_bos` is that of `Causal`. `floor` is the
    release's 1e-4 in p' = (1 - floor) p + floor; it makes 1/p' a little too small.

    `stratified` levels (ours) spread the batch's t evenly over [0, 1), see `rng.stratified_levels`; `bidirectional`
    anneals the mask from causal (0) to bidirectional (1), see `corruption.block_mask`. With `separate_documents`
    attention ends where a document does (`tokens.bos` starts one).
    """

    name: ClassVar[str] = "masked_diffusion"
    traced: ClassVar[tuple[str, ...]] = ("floor",)
    tokens: TokenIds
    loss: TokenLoss = CrossEntropy()
    network: str = "model"
    shifted: bool = True
    score_last: bool = False
    floor: float = 0.0
    stratified: bool = False
    bidirectional: float | Schedule = 1.0
    separate_documents: bool = False
    score_bos: bool = added(True)
    row_bos: bool = added(True)

    def __post_init__(self) -> None:
        check_number(self, "floor", 0, 1)
        check_rate(self, "bidirectional")
        if self.score_last and not self.shifted:
            raise UserError("MaskedDiffusion.score_last scores the target that is not read; only shifted ones have it.")
        if self.separate_documents:
            check_documents(self.tokens)
        check_row_bos(self.row_bos, self.separate_documents)

    def block_length(self, lengths: Mapping[str, int]) -> int:
        """A row is as long as its targets; UserError where the last target would be all there is to mask."""
        if self.score_last and lengths["targets"] < 2:
            raise UserError(f"MaskedDiffusion.score_last needs rows of at least 2 tokens, got {lengths['targets']}.")
        return lengths["targets"]

    def drawn(self, keys: Key[Array, " B"], step: Step = 0) -> dict[str, Float[Array, " B"]]:
        """Noise levels of the whole batch, where they are stratified."""
        return {"level": stratified_levels(keys)} if self.stratified else {}

    @property
    def decodings(self) -> tuple[Decoding, ...]:
        """The reverse process, with inputs and predictions aligned as in training."""
        return (Decoding("masked", {"shifted": self.shifted, "start": self.separate_documents}, self.network),)

    def corrupt(self, keys: Key[Array, " B"], batch: Batch, step: Step = 0) -> Example:
        """Tokens [B, T] -> inputs partly masked, targets the same tokens, weighted by 1/p where masked."""
        targets = batch["tokens"]
        level_keys, rounding_keys, choice_keys, block_keys = subkeys(keys, 4)
        uniform = jax.vmap(jax.random.uniform)
        levels = {**self.drawn(keys, step), **batch}["level"] if self.stratified else uniform(level_keys)
        real = targets != self.tokens.pad
        clean = decoder_inputs(targets, row_starts(batch, self.tokens, self.row_bos), self.shifted)
        # `score_last` draws the masks over what is read, else they are drawn over the targets.
        drawn_over = clean if self.score_last else targets
        masked = self._mask(choice_keys, maskable(drawn_over, self.tokens) & real, levels, uniform(rounding_keys), real)
        aligned = self.score_last or not self.shifted
        hidden = masked if aligned else jnp.pad(masked, ((0, 0), (1, 0)))[:, :-1]  # [B, T]: the inputs that are masked
        return Example(
            decoder_input_tokens=jnp.where(hidden, self.tokens.mask, clean),
            decoder_target_tokens=targets,
            decoder_loss_weights=self._weights(masked, targets, real),
            decoder_mask_ar=block_mask(block_keys, targets.shape[1], self.bidirectional, step),
            decoder_segment_ids=document_segments(clean, targets, self.tokens) if self.separate_documents else None,
            decoder_loss_counts=(real & jnp.any(masked, axis=1, keepdims=True)).astype(jnp.float32),
        )

    def _mask(
        self,
        keys: Key[Array, " B"],
        candidates: Bool[Array, "B T"],
        levels: Float[Array, " B"],
        rounding: Float[Array, " B"],
        real: Bool[Array, "B T"],
    ) -> Bool[Array, "B T"]:
        counts = jnp.floor(jnp.sum(real, axis=1) * levels + rounding).astype(jnp.int32)  # [B]: masks of each row
        scores = jax.vmap(lambda key: jax.random.uniform(key, candidates.shape[1:]))(keys)
        if self.score_last:  # A token has one score, wherever it stands.
            scores = jnp.roll(scores, 1, axis=1)
        return jax.vmap(mask_k_lowest)(scores, candidates, jnp.maximum(counts, 1))

    def _weights(
        self, masked: Bool[Array, "B T"], targets: Int[Array, "B T"], real: Bool[Array, "B T"]
    ) -> Float[Array, "B T"]:
        count = jnp.sum(masked, axis=1, keepdims=True)  # [B, 1]
        rate = count / jnp.maximum(jnp.sum(real, axis=1, keepdims=True), 1)
        rate = (1 - self.floor) * rate + self.floor
        said = masked
        if self.score_last:
            # Position i predicts what position i + 1 reads; after the last target comes nothing that is read.
            following = jnp.pad(real, ((0, 0), (0, 1)))[:, 1:]
            last = scored_targets(targets, self.tokens, self.score_bos) & ~following
            said = jnp.pad(masked, ((0, 0), (0, 1)))[:, 1:] | last
        return jnp.where(said & (count > 0), 1 / jnp.where(count > 0, rate, 1), 0.0)
