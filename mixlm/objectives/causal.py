"""Causal language modelling: next-token prediction."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Key

from mixlm.example import Example
from mixlm.losses.token_losses import CrossEntropy, TokenLoss
from mixlm.objectives.base import Batch, Corruption, Decoding
from mixlm.objectives.corruption import before_padding, check_documents, decoder_inputs, document_segments
from mixlm.schedules import Step
from mixlm.tokens import TokenIds


@dataclass(frozen=True)
class Causal(Corruption):
    """`-sum log p(x_i | x_<i)`, the mean over all positions of a row; the first token is predicted from `tokens.bos`.

    With `separate_documents` attention ends where a document does (`tokens.bos` starts one, see
    `corruption.documents`); the first token of the next one is still predicted, from the end of this one.
    """

    name: ClassVar[str] = "causal"
    tokens: TokenIds
    loss: TokenLoss = CrossEntropy()
    network: str = "model"
    separate_documents: bool = False

    def __post_init__(self) -> None:
        if self.separate_documents:
            check_documents(self.tokens)

    @property
    def decodings(self) -> tuple[Decoding, ...]:
        """Autoregressive."""
        return (Decoding("autoregressive", network=self.network),)

    def corrupt(self, keys: Key[Array, " B"], batch: Batch, step: Step = 0) -> Example:
        """Tokens [B, T] -> the same tokens as targets, shifted right as inputs, all causal."""
        targets = batch["tokens"]
        inputs = decoder_inputs(targets, self.tokens.bos, shifted=True)
        return Example(
            decoder_input_tokens=inputs,
            decoder_target_tokens=targets,
            decoder_loss_weights=before_padding(targets, self.tokens.pad).astype(jnp.float32),
            decoder_mask_ar=jnp.ones_like(targets),
            decoder_segment_ids=document_segments(inputs, targets, self.tokens) if self.separate_documents else None,
        )
