"""SpacTor (arXiv 2401.13160): span corruption and replaced-token detection on one encoder forward."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from mixlm.errors import UserError
from mixlm.example import Example
from mixlm.losses.score import Scored, score
from mixlm.losses.terms import Term, binary_terms
from mixlm.losses.token_losses import CrossEntropy, TokenLoss
from mixlm.objectives.base import Batch, Decoding, Nets, Targets, scored, scored_in
from mixlm.objectives.corruption import choose_positions, sample, span_counts
from mixlm.objectives.span_corruption import SpanCorruption
from mixlm.rng import subkeys
from mixlm.schedules import Step


@struct.dataclass
class Replaced:
    """The discriminator's inputs: the example with the generator's tokens, which are replaced, and those before."""

    example: Example
    replaced: Bool[Array, "B S"]
    generator: Scored
    before: Int[Array, "B S"]


@dataclass(frozen=True)
class SpacTor:
    """`L_G + lambda1 * L_RTD + lambda2 * L_SC` (stage one of the paper; stage two is `SpanCorruption` alone).

    Spans become sentinels; `mask_rate` of the other tokens of the encoder's input are masked, uniformly and an exact
    count; the generator fills them (L_G, cross-entropy over the masked positions) and is sampled; the encoder reads the
    result once; its decoder predicts the spans (L_SC) and its RTD head says of each of the encoder's tokens, sentinels
    and EOS included, whether it was replaced (L_RTD, ELECTRA's binary cross-entropy). A sample that equals the original
    counts as original, and no gradient flows from the discriminator into the generator.

    The order of the corruption and the three terms are known second-hand. Not confirmed by the paper's text, so ours to
    sweep: lambda1 = lambda2 = 10 and a mask rate of 15% (remembered), temperature 1 and the detached sample (as in
    ELECTRA), RTD over all positions, a generator with embeddings of its own.
    """

    name: ClassVar[str] = "spactor"
    traced: ClassVar[tuple[str, ...]] = ("lambda1", "lambda2")
    spans: SpanCorruption
    mask_rate: float = 0.15
    lambda1: float = 10.0
    lambda2: float = 10.0
    temperature: float = 1.0
    generator_loss: TokenLoss = CrossEntropy()
    generator: str = "generator"
    rtd_head: str = "rtd_head"

    def __post_init__(self) -> None:
        if not 0 < self.mask_rate < 1:
            raise UserError(f"SpacTor.mask_rate must be between 0 and 1, got {self.mask_rate}.")
        if self.temperature <= 0:
            raise UserError(f"SpacTor.temperature must be positive, got {self.temperature}.")
        if min(self.lambda1, self.lambda2) < 0:
            raise UserError(f"SpacTor's lambdas must not be negative, got {self.lambda1} and {self.lambda2}.")

    @property
    def networks(self) -> tuple[str, ...]:
        """The encoder-decoder, the generator and the head are all trained."""
        return (self.spans.network, self.generator, self.rtd_head)

    @property
    def decodings(self) -> tuple[Decoding, ...]:
        """Those of span corruption, the next stage."""
        return self.spans.decodings

    def block_length(self, lengths: Mapping[str, int]) -> int:
        """The same rows as span corruption's, so that the data do not notice the switch."""
        return self.spans.block_length(lengths)

    def mask(
        self, keys: Key[Array, " B"], batch: Batch
    ) -> tuple[Example, Int[Array, "B K"], Float[Array, "B K"], Bool[Array, "B K"]]:
        """Tokens [B, L] -> (span-corrupted example, K positions of its inputs, sampling noise, which of them to mask).

        K is `mask_rate` of the inputs that are neither sentinel nor EOS; of a padded row so many fewer are masked.
        """
        span_keys, choice_keys, sample_keys = subkeys(keys, 3)
        example = self.spans.corrupt(span_keys, batch)
        block_length = batch["tokens"].shape[1]
        removed, _ = span_counts(block_length, self.spans.noise_density, self.spans.mean_span_length)
        count = max(round(self.mask_rate * (block_length - removed)), 1)
        text = self._is_text(example.encoder_tokens)
        padded = batch["tokens"][:, -1] == self.spans.tokens.pad
        wanted = jnp.where(padded, jnp.round(self.mask_rate * jnp.sum(text, axis=1)).astype(jnp.int32), count)
        places, masked = jax.vmap(partial(choose_positions, count=count))(choice_keys, text, wanted=wanted)
        return example, places, jax.vmap(lambda key: jax.random.uniform(key, (count,)))(sample_keys), masked

    def generate(self, nets: Nets, keys: Key[Array, " B"], batch: Batch) -> Replaced:
        """Tokens [B, L] -> the span-corrupted example with the generator's samples in the encoder's input."""
        example, places, noise, masked = self.mask(keys, batch)
        original = example.encoder_tokens
        generated = self._fill(nets[self.generator], example, places, noise, masked)
        rows = jnp.arange(original.shape[0])[:, None]
        sampled = jnp.where(masked, jnp.asarray(generated.picked), original[rows, places])
        inputs = original.at[rows, places].set(sampled)
        # A sampled pad is a wrong token, not padding: the encoder must read it and the head judge it.
        read = replace(example, encoder_input_tokens=inputs, encoder_segment_ids=example.encoder_segments)
        return Replaced(read, inputs != original, generated, original)

    def judged(self, nets: Nets, keys: Key[Array, " B"], batch: Batch) -> tuple[Replaced, Float[Array, "B S"]]:
        """The discriminator's inputs, and its probability of each token that it was replaced."""
        corrupted = self.generate(nets, keys, batch)
        logits = nets[self.rtd_head](nets[self.spans.network].encode(corrupted.example))
        return corrupted, jax.nn.sigmoid(logits)

    def shown(
        self, nets: Nets | None, keys: Key[Array, " B"], batch: Batch, step: Step = 0
    ) -> tuple[Example, Int[Array, "B S"]]:
        """The corrupted example and its inputs before; without networks the mask stands where a sample would."""
        example, places, _, masked = self.mask(keys, batch)
        before = example.encoder_tokens
        if nets is not None:
            return self.generate(nets, keys, batch).example, before
        return replace(example, encoder_input_tokens=self._hidden(before, places, masked)), before

    def targets(self, keys: Key[Array, " B"], batch: Batch, step: Step = 0) -> dict[str, Targets]:
        """The masked tokens among the encoder's inputs for `generator`, the spans for `span_corruption`."""
        example, places, _, masked = self.mask(keys, batch)
        inputs = example.encoder_tokens
        filled = jnp.zeros(inputs.shape, bool).at[jnp.arange(inputs.shape[0])[:, None], places].max(masked)
        return {"generator": Targets(inputs, filled), "span_corruption": scored_in(example)}

    def _is_text(self, inputs: Int[Array, "B S"]) -> Bool[Array, "B S"]:
        tokens = self.spans.tokens
        return (inputs <= tokens.first_sentinel - tokens.sentinels) & (inputs != tokens.eos) & (inputs != tokens.pad)

    def _hidden(
        self, inputs: Int[Array, "B S"], places: Int[Array, "B K"], masked: Bool[Array, "B K"]
    ) -> Int[Array, "B S"]:
        rows = jnp.arange(inputs.shape[0])[:, None]
        return inputs.at[rows, places].set(jnp.where(masked, self.spans.tokens.mask, inputs[rows, places]))

    def _fill(
        self,
        generator,
        corrupted: Example,
        places: Int[Array, "B K"],
        noise: Float[Array, "B K"],
        masked: Bool[Array, "B K"],
    ) -> Scored:
        """Scores the generator at the masked positions only, and samples there."""
        inputs = corrupted.encoder_tokens
        rows = jnp.arange(inputs.shape[0])[:, None]
        example = Example(
            decoder_input_tokens=self._hidden(inputs, places, masked),
            decoder_target_tokens=inputs,
            decoder_loss_weights=jnp.zeros(inputs.shape),
            decoder_mask_ar=jnp.zeros_like(inputs),
            decoder_segment_ids=corrupted.encoder_segment_ids,
        )
        hidden = generator.hidden(example)[rows, places]
        pick = partial(sample, temperature=self.temperature)
        weights = masked.astype(jnp.float32)
        return score(
            generator.logits, hidden, inputs[rows, places], weights, self.generator_loss, pick=pick, noise=noise
        )

    def __call__(self, nets: Nets, batch: Batch, keys: Key[Array, " B"], step: Int[Array, ""]) -> dict[str, Term]:
        """The terms `generator`, `rtd` and `span_corruption`, with the lambdas as their weights."""
        net = nets[self.spans.network]
        corrupted = self.generate(nets, keys, batch)
        example = corrupted.example
        encoded = net.encode(example)
        judged = nets[self.rtd_head](encoded)
        filled = scored(net, net.decode(encoded, example), example, self.spans.loss)
        return (
            corrupted.generator.terms("generator", self.generator_loss)
            | binary_terms("rtd", judged, corrupted.replaced, example.encoder_segments > 0, self.lambda1)
            | {"rtd/replaced": _share(corrupted.replaced, example.encoder_segments > 0)}
            | filled.terms("span_corruption", self.spans.loss, self.lambda2)
        )


def _share(marks: Bool[Array, "B S"], counted: Bool[Array, "B S"]) -> Term:
    """Share of marks among counted positions; reported, with weight 0."""
    total, count = (jnp.sum(found, dtype=jnp.float32) for found in (marks, counted))
    return Term(total, count, 0.0)
