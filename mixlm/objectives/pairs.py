"""Objectives of a decoder over supervised pairs, which follow on one another: inputs x, then targets y with EOS."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

from mixlm.errors import UserError
from mixlm.example import Example
from mixlm.losses.token_losses import CrossEntropy, TokenLoss
from mixlm.objectives.base import Batch, Corruption, Decoding
from mixlm.objectives.corruption import before_padding, block_mask, check_rate, shift_right
from mixlm.objectives.unrolled_diffusion import FirstPass, Unrolling
from mixlm.rng import subkeys
from mixlm.schedules import Schedule, Step
from mixlm.tokens import TokenIds
from mixlm.values import check_number


class OfPairs:
    """Base of objectives whose rows are pairs, as `data.loader.pairs` lays them out: `lengths` are the features'."""

    pairs: ClassVar[bool] = True  # what its rows are, which others would read as text
    lengths: Mapping[str, int] | tuple[tuple[str, int], ...]
    tokens: TokenIds

    def __post_init__(self) -> None:
        # gin writes a dict, which has no hash.
        object.__setattr__(self, "lengths", tuple(sorted(dict(self.lengths).items())))

    def block_length(self, lengths: Mapping[str, int]) -> int:
        """Inputs and targets together; UserError where the recipe's lengths are others than its own."""
        wanted = lengths["inputs"] + lengths["targets"]
        if dict(lengths) != dict(self.lengths):
            name = type(self).__name__
            raise UserError(f"{name}.lengths are {dict(self.lengths)}, and TASK_FEATURE_LENGTHS {dict(lengths)}.")
        return wanted

    def begins(self, rows: Int[Array, "B L"]) -> Int[Array, "B 1"]:
        """The place of the first token of each row: padding comes before the inputs."""
        inputs = rows[:, : dict(self.lengths)["inputs"]]
        return inputs.shape[1] - jnp.sum(before_padding(inputs[:, ::-1], self.tokens.pad), axis=1, keepdims=True)

    def is_target(self, rows: Int[Array, "B L"]) -> Bool[Array, "B L"]:
        """Mask of the targets' places, the padding behind them too; none in a row that is all padding."""
        place = jnp.arange(rows.shape[1])[None, :]
        real = jnp.any(rows != self.tokens.pad, axis=1, keepdims=True)
        return (place >= dict(self.lengths)["inputs"]) & real


@dataclass(frozen=True)
class PairLM(OfPairs, Corruption):
    """`-sum_i log p(y_i | y_<i, x)` by a causal decoder that reads BOS, x and y_<i; EOS is scored, padding is not.

    AR2Diff's autoregressive baseline (arXiv 2401.17181, figure 2) on text to text.
    """

    name: ClassVar[str] = "pair_lm"
    tokens: TokenIds
    lengths: Mapping[str, int] | tuple[tuple[str, int], ...]
    loss: TokenLoss = CrossEntropy()
    network: str = "model"

    @property
    def decodings(self) -> tuple[Decoding, ...]:
        """Autoregressive, with the prompt as the inputs."""
        return (Decoding("autoregressive", {}, self.network),)

    def corrupt(self, keys: Key[Array, " B"], batch: Batch, step: Step = 0) -> Example:
        """Tokens [B, S + T] -> inputs shifted by one, with BOS right before x; targets scored through EOS."""
        rows = batch["tokens"]
        place, begins = jnp.arange(rows.shape[1])[None, :], self.begins(rows)
        read = jax.vmap(lambda row: shift_right(row, self.tokens.bos))(rows)
        present = (place >= begins) & before_padding(rows, self.tokens.pad)
        scored = self.is_target(rows) & before_padding(rows, self.tokens.pad)
        return Example(
            decoder_input_tokens=jnp.where(place == begins, self.tokens.bos, read),
            decoder_target_tokens=rows,
            decoder_loss_weights=scored.astype(jnp.float32),
            decoder_mask_ar=jnp.ones_like(rows),
            decoder_segment_ids=present.astype(jnp.int32),
        )


@dataclass(frozen=True)
class PairDiffusion(OfPairs, Unrolling):
    """Unrolled diffusion (see `UnrolledDiffusion`) of the targets of a pair, whose inputs are frozen.

    All places of the targets are noised, read and scored, the padding behind EOS as well: there is no length
    predictor, and the network says by padding how long the text is (arXiv 2401.17181, section 3). Position i reads and
    predicts y_i. `bidirectional` is the mask's share (`corruption.block_mask`), over inputs and targets.
    """

    name: ClassVar[str] = "pair_diffusion"
    tokens: TokenIds
    lengths: Mapping[str, int] | tuple[tuple[str, int], ...]
    loss: TokenLoss = CrossEntropy()
    network: str = "model"
    temperature: float = 0.0
    bidirectional: float | Schedule = 1.0
    shifted = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "temperature", 0)
        check_rate(self, "bidirectional")

    @property
    def decodings(self) -> tuple[Decoding, ...]:
        """Unrolled, with the prompt as the inputs."""
        return (Decoding("unrolled", {"shifted": False}, self.network),)

    def first(self, keys: Key[Array, " B"], batch: Batch, step: Step = 0) -> FirstPass:
        """Tokens [B, S + T] -> the first pass, and noise [B, S + T] to sample the second with."""
        share_keys, place_keys, token_keys, block_keys, sample_keys = subkeys(keys, 5)
        rows = batch["tokens"]
        length, scored = rows.shape[1], self.is_target(rows)
        share = jax.vmap(lambda key: jax.random.uniform(key, (1,)))(share_keys)
        changed = jax.vmap(lambda key: jax.random.uniform(key, (length,)))(place_keys) < share
        noise = jax.vmap(lambda key: jax.random.randint(key, (length,), 0, self.tokens.vocab_size))(token_keys)
        example = Example(
            decoder_input_tokens=jnp.where(scored & changed, noise, rows),
            decoder_target_tokens=rows,
            decoder_loss_weights=scored.astype(jnp.float32),
            decoder_mask_ar=block_mask(block_keys, length, self.bidirectional, step),
            decoder_segment_ids=(jnp.arange(length)[None, :] >= self.begins(rows)).astype(jnp.int32),
        )
        return FirstPass(example, scored, jax.vmap(lambda key: jax.random.uniform(key, (length,)))(sample_keys))
