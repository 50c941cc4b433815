"""GPT-BERT: LTG-BERT with a gate on its attention, and layers that read a weighted sum of all outputs before them."""

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mixlm.errors import UserError
from mixlm.models.kv_cache import KeysValues, Slots
from mixlm.models.layers import LayerSizes, constrain
from mixlm.models.ltg_bert import GEGLU, DisentangledAttention, LTGBert, norm

# The residual stream, and what all sublayers before have put out, the embedding first.
Outputs = tuple[Float[Array, "B T D"], ...]
Carry = tuple[Float[Array, "B T D"], Outputs]


class GatedAttention(DisentangledAttention):
    """Disentangled attention whose output is `out(norm(mixed * gelu(gate(x))))`; the norm has no gain and no bias."""

    affine: ClassVar[bool] = False

    def setup(self) -> None:
        """A fifth projection is the gate's."""
        super().setup()
        self.gate = self.projection()

    def output(self, mixed: Float[Array, "B T J"], x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """The output for the residual stream, from the mixed values and the attention's input."""
        # This gelu is exact, unlike the MLP's.
        gate = constrain(nn.gelu(self.gate(x), approximate=False), "batch", "length", "joined_kv")
        return self.out(self.post_layer_norm(mixed * gate))


class DepthWeightedAverage(nn.Module):
    """`sum_i weights_i outputs_i`, summed in float32; at first all weight is on the last output (arXiv 2402.02622)."""

    @nn.compact
    def __call__(self, outputs: Outputs) -> Float[Array, "B T D"]:
        """Adds up the outputs of all sublayers so far."""

        def last(key: Any, shape: tuple[int, ...], dtype: Any) -> Float[Array, " N"]:
            return jnp.zeros(shape, dtype).at[-1].set(1.0)

        init = nn.with_logical_partitioning(last, (None,))
        weights = jnp.asarray(self.param("weights", init, (len(outputs),), jnp.float32))
        # Term by term, for a stack of the outputs would be a copy of all of them in every sublayer.
        total = sum(weight * output.astype(jnp.float32) for weight, output in zip(weights, outputs))
        return constrain(jnp.asarray(total).astype(outputs[-1].dtype), "batch", "length", "embed")


class GPTBertLayer(nn.Module):
    """Attention and MLP on the normalised residual stream; after each, the stream is an average over all outputs."""

    sizes: LayerSizes
    epsilon: float
    index: int

    @nn.compact
    def __call__(
        self,
        carry: Carry,
        past: Slots | None,
        relative: Float[Array, "R D"],
        rows: Int[Array, "#B T S"],
        mask: Bool[Array, "B T S"],
    ) -> tuple[Carry, KeysValues]:
        """Adds two outputs to those in `carry`; also returns all keys and values, those of `past` too."""
        sizes, (x, outputs) = self.sizes, carry
        attention = GatedAttention(sizes, self.epsilon, name="self_attention")
        y, memory = attention(norm(sizes.dtype, self.epsilon)(x), relative, rows, mask, past)
        outputs = (*outputs, x + y)
        x = DepthWeightedAverage(name="attention_average")(outputs)
        y = GEGLU(sizes, self.epsilon, self.index, name="mlp")(norm(sizes.dtype, self.epsilon)(x))
        outputs = (*outputs, constrain(x + y, "batch", "length", "embed"))
        return (DepthWeightedAverage(name="mlp_average")(outputs), outputs), memory


class GPTBert(LTGBert):
    """GPT-BERT (arXiv 2410.24159, after ltgoslo/gpt-bert), whose causality is data.

    LTG-BERT with gated attention, and with the residual stream after each of the 2L sublayers a weighted sum of the
    embedding and all sublayers' outputs so far, L(2L + 3) weights in all (DenseFormer, arXiv 2402.02622). So 2L + 1
    arrays [B, T, D] are held until the last layer, in the forward pass as well; `execution.remat` recomputes what is
    inside of the layers. Layers cannot be scanned: a loop would save all outputs anew for every layer's gradient.
    Fields are those of `LTGBert`. Raises `UserError` for an invalid size, rate or name, and for `execution.scan`.
    """

    epsilon: float = 1e-5
    layer: ClassVar[type[nn.Module]] = GPTBertLayer

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.execution.scan:
            raise UserError(
                "SCAN_LAYERS = True is not for GPTBert, whose layers read the outputs of all layers before them: "
                "give --gin.SCAN_LAYERS=False."
            )

    def apply_layers(
        self, x: Float[Array, "B T D"], past: list[Slots] | None, *shared: Any
    ) -> tuple[Float[Array, "B T D"], list[KeysValues]]:
        """The last layer's average, and keys and values for a cache."""
        (x, _), written = super().apply_layers((x, (x,)), past, *shared)
        return x, written
