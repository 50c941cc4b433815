"""Heads that classify hidden states, such as ELECTRA's discriminator."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mixlm.errors import UserError
from mixlm.models.layers import check_dtype, check_positive, constrain

# Ours, close to ELECTRA's: initial probabilities are near one half.
KERNEL_INIT = nn.initializers.truncated_normal(stddev=0.02)


class TokenHead(nn.Module):
    """One float32 logit for every token, `dense(D) -> gelu -> dense(1)`: ELECTRA's discriminator head.

    Parameters are float32, the first product is taken in `dtype`. Raises `UserError` for an unknown `dtype`,
    and for hidden states that are not `emb_dim` wide.
    """

    emb_dim: int
    dtype: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(emb_dim=self.emb_dim)
        check_dtype(self.dtype)

    def inputs(self) -> tuple[Float[Array, "1 1 D"]]:
        """Arguments of `__call__` to initialise the parameters with: one position."""
        return (jnp.zeros((1, 1, self.emb_dim)),)

    @nn.compact
    def __call__(self, hidden: Float[Array, "B S D"]) -> Float[Array, "B S"]:
        """The logit of every position."""
        if hidden.shape[-1] != self.emb_dim:
            raise UserError(f"TokenHead.emb_dim = {self.emb_dim}, and the hidden states are {hidden.shape[-1]} wide.")
        dense = nn.Dense(
            self.emb_dim,
            dtype=self.dtype,
            kernel_init=nn.with_logical_partitioning(KERNEL_INIT, ("embed", "mlp")),
            bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("mlp",)),
            name="dense",
        )
        judge = nn.Dense(
            1,
            dtype=jnp.float32,
            kernel_init=nn.with_logical_partitioning(KERNEL_INIT, ("mlp", None)),
            bias_init=nn.with_logical_partitioning(nn.initializers.zeros, (None,)),
            name="judge",
        )
        y = constrain(nn.gelu(dense(hidden)), "batch", "length", "mlp")
        return judge(y)[..., 0]
