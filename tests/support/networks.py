"""A network that is quick to trace and to compile."""

from dataclasses import replace

import flax.linen as nn
import jax.numpy as jnp

from mixlm.example import smallest_example


class Bag(nn.Module):
    """Embeddings of what is said on top of the mean of what is read: little to compile, nothing that a step can see."""

    vocab_size: int = 64
    width: int = 8
    dropout_rate: float = 0.0

    def setup(self):
        self.embedder = nn.Embed(self.vocab_size, self.width)
        self.head = nn.Dense(self.vocab_size)
        self.dropout = nn.Dropout(self.dropout_rate)

    def inputs(self):
        return (smallest_example(encoder=True),)

    def encode(self, example):
        encoded = self.embedder(example.encoder_input_tokens)
        return self.dropout(encoded, deterministic=not self.has_rng("dropout"))

    def decode(self, encoded, example):
        return jnp.tanh(self.embedder(example.decoder_input_tokens) + jnp.mean(encoded, axis=1, keepdims=True))

    def hidden(self, example):
        read = example.decoder_input_tokens if example.encoder_input_tokens is None else example.encoder_input_tokens
        return self.decode(self.encode(replace(example, encoder_input_tokens=read)), example)

    def logits(self, hidden):
        return self.head(hidden)

    def __call__(self, example):
        return self.logits(self.hidden(example))
