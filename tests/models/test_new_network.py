"""A network from outside is one Python file and one gin file; nothing of mixlm is edited, registered or subclassed."""

from support import from_outside

NETWORK = '''
"""A gated recurrence over embedded tokens (minGRU, arXiv 2410.01201): causal, and without attention."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from mixlm.example import smallest_example


class MinGRU(nn.Module):
    vocab_size: int
    emb_dim: int

    def setup(self):
        self.embed = nn.Embed(self.vocab_size, self.emb_dim)
        self.gate, self.candidate = nn.Dense(self.emb_dim), nn.Dense(self.emb_dim)

    def inputs(self):
        return (smallest_example(encoder=False),)

    def hidden(self, example):
        x = self.embed(example.decoder_input_tokens)
        z = nn.sigmoid(self.gate(x))
        keep, new = 1 - z, z * self.candidate(x)
        combine = lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1])
        return x + jax.lax.associative_scan(combine, (keep, new), axis=1)[1]

    def logits(self, hidden):
        return self.embed.attend(hidden.astype(jnp.float32))

    def __call__(self, example):
        return self.logits(self.hidden(example))
'''

RECIPE = """
from __gin__ import dynamic_registration

import min_gru

include 'tiny.gin'

RECIPE = "min_gru"
NETWORKS = {"model": @min_gru.MinGRU()}
min_gru.MinGRU.vocab_size = %VOCAB_SIZE
min_gru.MinGRU.emb_dim = 16
"""


def test_a_network_is_one_python_file_and_one_gin_file(corpus, tmp_path):
    files = {"min_gru.py": NETWORK, "min_gru.gin": RECIPE}
    from_outside.run(tmp_path, corpus, files, ("train", "--gin_file=min_gru.gin"))
    record = from_outside.records(tmp_path)
    assert [line["step"] for line in record] == [1, 2, 3, 4]
    assert record[-1]["loss"] < record[0]["loss"]
    assert "validation/causal" in record[-1]
