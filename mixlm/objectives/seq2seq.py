"""Supervised pairs (T5, section 2.4: text to text): the encoder reads the inputs, the decoder predicts the targets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from mixlm.example import Example
from mixlm.losses.token_losses import CrossEntropy, TokenLoss
from mixlm.objectives.base import Batch, Corruption, Decoding
from mixlm.objectives.corruption import before_padding, shift_right
from mixlm.objectives.pairs import OfPairs
from mixlm.schedules import Step
from mixlm.tokens import TokenIds


@dataclass(frozen=True)
class Seq2Seq(OfPairs, Corruption):
    """`-sum_i log p(y_i | y_<i, x)` for a pair of inputs x and targets y, as `data.loader.pairs` lays it out in a row.

    `lengths` are those of the features, in tokens: a row is `lengths["inputs"]` of padding and x, and then
    `lengths["targets"]` of y and padding. So y follows on x in a network without an encoder as well, which reads x as a
    prefix. Padding is neither read nor scored, but an encoder of no inputs reads one token of it.
    """

    name: ClassVar[str] = "seq2seq"
    tokens: TokenIds
    lengths: Mapping[str, int] | tuple[tuple[str, int], ...]
    loss: TokenLoss = CrossEntropy()
    network: str = "model"

    @property
    def decodings(self) -> tuple[Decoding, ...]:
        """Autoregressive, with the prompt as the inputs."""
        return (Decoding("autoregressive", {"encoded": True}, self.network),)

    def corrupt(self, keys: Key[Array, " B"], batch: Batch, step: Step = 0) -> Example:
        """Tokens [B, S + T] -> encoder inputs [B, S] and targets [B, T]."""
        inputs, targets = jnp.split(batch["tokens"], [dict(self.lengths)["inputs"]], axis=1)
        # Attention that sees nothing would be even over everything, padding too.
        read = before_padding(inputs[:, ::-1], self.tokens.pad)[:, ::-1].at[:, -1].set(True)
        said = before_padding(targets, self.tokens.pad)
        return Example(
            encoder_input_tokens=inputs,
            encoder_segment_ids=read.astype(jnp.int32),
            decoder_input_tokens=jax.vmap(lambda row: shift_right(row, self.tokens.bos))(targets),
            decoder_target_tokens=targets,
            decoder_loss_weights=said.astype(jnp.float32),
            decoder_mask_ar=jnp.ones_like(targets),
            decoder_segment_ids=said.astype(jnp.int32),
        )
