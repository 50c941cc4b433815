"""Heads that classify hidden states, such as ELECTRA's discriminator."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mixlm.errors import UserError
from mixlm.models.layers import Dropout, check_dtype, check_positive, constrain
from mixlm.network import EncoderDecoderNetwork

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


class ClassHead(nn.Module):
    """Float32 logits of `classes` from one pooled hidden state: `dense(D) -> gelu -> norm -> dropout -> dense(C)`.

    As in LTG-BERT's release, whose norm has no gain and no bias. Raises `UserError` for hidden states that are not
    `emb_dim` wide.
    """

    emb_dim: int
    classes: int
    dropout_rate: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(emb_dim=self.emb_dim, classes=self.classes)

    def inputs(self) -> tuple[Float[Array, "1 D"]]:
        """Arguments of `__call__` to initialise the parameters with: one text."""
        return (jnp.zeros((1, self.emb_dim)),)

    @nn.compact
    def __call__(self, pooled: Float[Array, "B D"]) -> Float[Array, "B C"]:
        """The logits of every text."""
        if pooled.shape[-1] != self.emb_dim:
            raise UserError(f"ClassHead.emb_dim = {self.emb_dim}, and the hidden states are {pooled.shape[-1]} wide.")
        init, zeros = nn.with_logical_partitioning, nn.initializers.zeros
        y = nn.Dense(
            self.emb_dim, kernel_init=init(KERNEL_INIT, ("embed", "mlp")), bias_init=init(zeros, ("mlp",)), name="dense"
        )(pooled.astype(jnp.float32))
        y = nn.LayerNorm(use_scale=False, use_bias=False)(nn.gelu(y))
        y = Dropout(self.dropout_rate, shared=())(y)
        return nn.Dense(
            self.classes, kernel_init=init(KERNEL_INIT, ("mlp", None)), bias_init=init(zeros, (None,)), name="classes"
        )(y)


def only(networks: Mapping[str, nn.Module], name: str = "model") -> dict[str, nn.Module]:
    """The one network of a run that is fine-tuned; its generators and detectors stay behind."""
    if name not in networks:
        raise UserError(f"There is no network {name!r} to fine-tune, only {', '.join(networks)}.")
    return {name: networks[name]}


def classified(
    networks: Mapping[str, nn.Module], classes: int, dropout_rate: float = 0.0, name: str = "model"
) -> dict[str, nn.Module]:
    """The network with a new head of `classes` classes, as wide as its hidden states.

    Raises `UserError` for an encoder-decoder, which writes the name of the class.
    """
    network: Any = only(networks, name)[name]
    if isinstance(network, EncoderDecoderNetwork):
        raise UserError(
            f"{type(network).__name__} is an encoder-decoder, which is fine-tuned text to text: leave "
            "finetune/classes.gin out."
        )
    return {name: network, "class_head": ClassHead(network.emb_dim, classes, dropout_rate)}
