"""Prefix language modelling (T5, section 3.2.2): a bidirectional prefix, then next-token prediction."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from mixlm.errors import UserError
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
class PrefixLM(Corruption):
    """`-sum_{i >= s} log p(x_i | x_<i)` with the split s uniform over 1..T-1, and no mask inside of the prefix x_<s.

    Without `bidirectional_prefix` the prefix is read causally too, and only not scored: AR2Diff's baseline (figure 2).
    With `separate_documents` attention ends where a document does (`tokens.bos` starts one). `score_bos` and `row_bos`
    are those of `Causal`.
    """

    name: ClassVar[str] = "prefix_lm"
    tokens: TokenIds
    loss: TokenLoss = CrossEntropy()
    network: str = "model"
    bidirectional_prefix: bool = True
    separate_documents: bool = False
    score_bos: bool = added(True)
    row_bos: bool = added(True)

    def __post_init__(self) -> None:
        if self.separate_documents:
            check_documents(self.tokens)
        check_row_bos(self.row_bos, self.separate_documents)

    def block_length(self, lengths: Mapping[str, int]) -> int:
        """A row holds the prefix and the rest, as long as the targets; UserError where there is no room for both."""
        if lengths["targets"] < 2:
            raise UserError(
                f"A prefix language model needs rows of at least 2 tokens, got {lengths['targets']} targets."
            )
        return lengths["targets"]

    @property
    def decodings(self) -> tuple[Decoding, ...]:
        """Autoregressive, with the prompt as the prefix."""
        return (Decoding("autoregressive", {"prefix": self.bidirectional_prefix}, self.network),)

    def corrupt(self, keys: Key[Array, " B"], batch: Batch, step: Step = 0) -> Example:
        """Tokens [B, T] -> inputs shifted, one block up to the split; only targets from the split on are scored.

        Position i reads x_(i-1) and predicts x_i, so that the prefix x_<s sits at positions 0..s, start token included.
        """
        targets = batch["tokens"]
        length = targets.shape[1]
        split = jax.vmap(lambda key: jax.random.randint(key, (), 1, length))(keys)[:, None]
        place = jnp.arange(length)[None, :]
        inputs = decoder_inputs(targets, row_starts(batch, self.tokens, self.row_bos))
        scored = (place >= split) & scored_targets(targets, self.tokens, self.score_bos)
        opens = place > split if self.bidirectional_prefix else jnp.ones(targets.shape)
        return Example(
            decoder_input_tokens=inputs,
            decoder_target_tokens=targets,
            decoder_loss_weights=scored.astype(jnp.float32),
            decoder_mask_ar=opens.astype(jnp.int32),
            decoder_segment_ids=document_segments(inputs, targets, self.tokens) if self.separate_documents else None,
        )
