"""Causal language modelling: next-token prediction."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Key

from mixlm.example import Example
from mixlm.losses.token_losses import CrossEntropy, TokenLoss
from mixlm.objectives.base import Batch, Corruption, Decoding
from mixlm.objectives.corruption import (
    check_documents,
    check_row_bos,
    decoder_inputs,
    document_segments,
    row_starts,
    scored_targets,
)
from mixlm.schedules import Step
from mixlm.tokens import TokenIds
from mixlm.values import added


@dataclass(frozen=True)
class Causal(Corruption):
    """`-sum log p(x_i | x_<i)`, the mean over the scored positions of a row.

    The first token is predicted from `tokens.bos` or, without `row_bos`, from the token before the row in the text.
    With `separate_documents` attention ends where a document does (`tokens.bos` starts one, see
    `corruption.document_segments`); that BOS is still predicted, from the end of the document before, unless
    `score_bos` is off. The releases of Dual and of GPT-BERT never score it. Dual's rows begin anywhere in the text, and
    GPT-BERT's always with BOS.
    """

    name: ClassVar[str] = "causal"
    tokens: TokenIds
    loss: TokenLoss = CrossEntropy()
    network: str = "model"
    separate_documents: bool = False
    score_bos: bool = added(True)
    row_bos: bool = added(True)

    def __post_init__(self) -> None:
        if self.separate_documents:
            check_documents(self.tokens)
        check_row_bos(self.row_bos, self.separate_documents)

    @property
    def decodings(self) -> tuple[Decoding, ...]:
        """Autoregressive."""
        return (Decoding("autoregressive", network=self.network),)

    def corrupt(self, keys: Key[Array, " B"], batch: Batch, step: Step = 0) -> Example:
        """Tokens [B, T] -> the same tokens as targets, shifted right as inputs, all causal."""
        targets = batch["tokens"]
        inputs = decoder_inputs(targets, row_starts(batch, self.tokens, self.row_bos))
        return Example(
            decoder_input_tokens=inputs,
            decoder_target_tokens=targets,
            decoder_loss_weights=scored_targets(targets, self.tokens, self.score_bos).astype(jnp.float32),
            decoder_mask_ar=jnp.ones_like(targets),
            decoder_segment_ids=document_segments(inputs, targets, self.tokens) if self.separate_documents else None,
        )
