"""Causal language modelling: every token from those before it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from mixlm.corruption import shift_right
from mixlm.example import Example
from mixlm.losses import CrossEntropy, Term, TokenLoss
from mixlm.objectives.base import Batch, Nets, score_example
from mixlm.tokens import TokenIds


@dataclass(frozen=True)
class Causal:
    """`-sum log p(x_i | x_<i)`, the mean over all positions of a row; the first token is read off `tokens.bos`."""

    name: ClassVar[str] = "causal"
    tokens: TokenIds
    loss: TokenLoss = CrossEntropy()
    network: str = "model"

    @property
    def networks(self) -> tuple[str, ...]:
        """The one network that is trained."""
        return (self.network,)

    def block_length(self, lengths: Mapping[str, int]) -> int:
        """A row is as long as its targets."""
        return lengths["targets"]

    def corrupt(self, keys: Key[Array, " B"], batch: Batch) -> Example:
        """Tokens [B, T] -> the same tokens as targets, shifted right as inputs, all causal."""
        targets = batch["tokens"]
        return Example(
            decoder_input_tokens=jax.vmap(lambda row: shift_right(row, self.tokens.bos))(targets),
            decoder_target_tokens=targets,
            decoder_loss_weights=jnp.ones(targets.shape),
            decoder_mask_ar=jnp.ones_like(targets),
        )

    def __call__(self, nets: Nets, batch: Batch, keys: Key[Array, " B"], step: Int[Array, ""]) -> dict[str, Term]:
        """The term `causal`: the mean cost of a token."""
        return score_example(nets[self.network], self.corrupt(keys, batch), self.name, self.loss)
