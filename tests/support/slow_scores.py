"""Scores of single, unpadded sentences by a slow loop: a forward pass for each prediction, and numpy's log-softmax."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixlm.evaluation.likelihood import CausalLikelihood, DiffusionBound, Fused, PrefixLikelihood, PseudoLikelihood
from mixlm.evaluation.reading import Rows
from mixlm.evaluation.span_likelihood import AfterPrefix, Everything
from mixlm.example import Example

_masks = jax.jit(DiffusionBound.masks, static_argnums=0)


@dataclass(frozen=True)
class SlowScores:
    """A network and its parameters; `tokens` has the special ids."""

    module: Any
    params: Any
    tokens: Any

    @cached_property
    def _call(self):
        return jax.jit(lambda params, example: self.module.apply({"params": params}, example))

    def log_probabilities(self, read, mask_ar, encoder=None):
        """[positions, vocabulary] of one row."""
        row = jnp.asarray([read], jnp.int32)
        ones = jnp.ones(row.shape, jnp.int32)
        encoded = None if encoder is None else jnp.asarray([encoder], jnp.int32)
        mask = jnp.asarray([mask_ar], jnp.int32)
        example = Example(row, ones, jnp.ones(row.shape), mask, encoder_input_tokens=encoded)
        logits = np.asarray(self._call(self.params, example))[0].astype(np.float64)
        logits = logits - logits.max(axis=-1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))

    def answer(self, mode, x, prefix, words=None, noise=0, before=None):
        """(The score of x[prefix:] given x[:prefix], whether every token was the likeliest); read after `before`."""
        if isinstance(mode, Fused):
            parts = [self.answer(part, x, prefix, words, noise, before) for part in mode.parts]
            return sum(score for score, _ in parts), parts[0][1]
        rows = list(self._rows(mode, x, prefix, words, noise, before or self.tokens.bos))
        total = sum(weight * row[x[i]] for i, row, weight in rows)
        return total, all(int(np.argmax(row)) == x[i] for i, row, _ in rows)

    def _rows(self, mode, x, prefix, words, noise, before):
        """(Token's number, the log-probabilities of all tokens in its place, weight) of every prediction."""
        length = len(x)
        if isinstance(mode, CausalLikelihood | PrefixLikelihood):
            seen = prefix if isinstance(mode, PrefixLikelihood) else 0
            found = self.log_probabilities([before, *x[:-1]], [0] * (seen + 1) + [1] * (length - seen - 1))
            yield from ((i, found[i], 1.0) for i in range(prefix, length))
        elif isinstance(mode, PseudoLikelihood):
            for i in range(prefix, length):
                last = max(j for j in range(i, length) if words[j] == words[i]) if mode.word else i + mode.following
                yield i, self._masked(mode, x, range(i, last + 1), before)[i], 1.0
        elif isinstance(mode, DiffusionBound):
            for copy in range(mode.samples):
                numbers = (jnp.asarray([n]) for n in (length, prefix, copy, noise))
                masked, count = _masks(mode, Rows(jnp.asarray([x], jnp.int32), *numbers))
                hidden = np.flatnonzero(np.asarray(masked)[0]).tolist()
                found = self._masked(mode, x, hidden, before)
                weight = (length - prefix) / (int(count[0]) * mode.samples)
                yield from ((i, found[i], weight) for i in hidden)
        else:
            yield from self._spans(mode.spans, x, prefix)

    def _masked(self, mode, x, hidden, before):
        read = [self.tokens.mask if i in hidden else token for i, token in enumerate(x)]
        read = [before, *read] if mode.shifted else read
        return self.log_probabilities(read, [0] * len(read))

    def _spans(self, spans, x, prefix):
        width = len(x) if isinstance(spans, Everything | AfterPrefix) else spans.tokens
        first = 0 if isinstance(spans, Everything) else prefix
        for start in range(first, len(x), width):
            end = min(start + width, len(x))
            said = [self.tokens.bos, self.tokens.first_sentinel, *x[start : end - 1]]
            encoder = [*x[:start], self.tokens.first_sentinel, *x[end:], self.tokens.eos]
            found = self.log_probabilities(said, [1] * len(said), encoder)
            yield from ((i, found[i - start + 1], 1.0) for i in range(max(start, prefix), end))
