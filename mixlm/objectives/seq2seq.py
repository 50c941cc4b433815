"""Supervised pairs (T5, section 2.4: text to text): the encoder reads the inputs, the decoder predicts the targets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from mixlm.example import Example
from mixlm.losses.token_losses import CrossEntropy, TokenLoss
from mixlm.objectives.base import Batch, Corruption, Decoding
from mixlm.objectives.corruption import before_padding, shift_right
from mixlm.objectives.pairs import OfPairs
from mixlm.schedules import Step
from mixlm.tokens import TokenIds
from mixlm.values import added


@dataclass(frozen=True)
class Seq2Seq(OfPairs, Corruption):
    """`-sum_i log p(y_i | y_<i, x)` for a pair of inputs x and targets y, as `data.loader.pairs` lays it out in a row.

    `lengths` are those of the features, in tokens: a row is `lengths["inputs"]` of padding and x, and then
    `lengths["targets"]` of y and padding. So y follows on x in a network without an encoder as well, which reads x as a
    prefix. Padding is neither read nor scored, but an encoder of no inputs reads one token of it.

    Where rows are `packed` each has several pairs (`data.loader.packing`), with padding between them: the tokens
    between two paddings are a segment, the k-th of the targets that of the k-th inputs, and positions begin anew.
    """

    name: ClassVar[str] = "seq2seq"
    tokens: TokenIds
    lengths: Mapping[str, int] | tuple[tuple[str, int], ...]
    loss: TokenLoss = CrossEntropy()
    network: str = "model"
    packed: bool = added(False)

    @property
    def decodings(self) -> tuple[Decoding, ...]:
        """Autoregressive, with the prompt as the inputs."""
        return (Decoding("autoregressive", {"encoded": True}, self.network),)

    def corrupt(self, keys: Key[Array, " B"], batch: Batch, step: Step = 0) -> Example:
        """Tokens [B, S + T] -> encoder inputs [B, S] and targets [B, T]."""
        inputs, targets = jnp.split(batch["tokens"], [dict(self.lengths)["inputs"]], axis=1)
        if self.packed:
            return self._packed(inputs, targets)
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

    def _packed(self, inputs: Int[Array, "B S"], targets: Int[Array, "B T"]) -> Example:
        read, places = segments(inputs, self.tokens.pad)
        said, positions = segments(targets, self.tokens.pad)
        shifted = jax.vmap(lambda row: shift_right(row, self.tokens.bos))(targets)
        return Example(
            encoder_input_tokens=inputs,
            encoder_segment_ids=read,
            encoder_positions=places,
            decoder_input_tokens=jnp.where((said > 0) & (positions == 0), self.tokens.bos, shifted),
            decoder_target_tokens=targets,
            decoder_loss_weights=(said > 0).astype(jnp.float32),
            decoder_mask_ar=jnp.ones_like(targets),
            decoder_segment_ids=said,
            decoder_positions=positions,
        )


def segments(rows: Int[Array, "B L"], pad: int) -> tuple[Int[Array, "B L"], Int[Array, "B L"]]:
    """(The number from 1 of the run of tokens that each place is in, 0 for padding; the place within that run)."""
    real = rows != pad
    opens = real & ~jnp.pad(real[:, :-1], ((0, 0), (1, 0)))
    place = jnp.arange(rows.shape[1])[None, :]
    begins = jax.lax.cummax(jnp.where(opens, place, 0), axis=1)
    return jnp.where(real, jnp.cumsum(opens, axis=1), 0), jnp.where(real, place - begins, 0)
