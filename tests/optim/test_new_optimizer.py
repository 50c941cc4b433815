"""An optimizer from outside is one Python file and one gin file; nothing of mixlm is edited or registered."""

from support import from_outside

RULE = '''
"""Lion (arXiv 2302.06675), by optax."""

from dataclasses import dataclass

import optax

from mixlm.optim.base import decayed


@dataclass(frozen=True)
class Lion:
    b1: float = 0.9
    b2: float = 0.99
    weight_decay: float = 0.1

    def transform(self):
        return optax.chain(
            optax.scale_by_lion(self.b1, self.b2),
            optax.add_decayed_weights(self.weight_decay, mask=decayed),
            optax.scale(-1.0),
        )
'''

RECIPE = """
from __gin__ import dynamic_registration

import lion

include 'tiny.gin'

RECIPE = "lion"
OPTIMIZER = @lion.Lion()
lion.Lion.b2 = 0.98
"""


def test_an_optimizer_is_one_python_file_and_one_gin_file(corpus, tmp_path):
    files = {"lion.py": RULE, "lion.gin": RECIPE}
    from_outside.run(tmp_path, corpus, files, ("train", "--gin_file=lion.gin"))
    record = from_outside.records(tmp_path)
    assert [line["step"] for line in record] == [1, 2, 3, 4]
    assert record[-1]["loss"] < record[0]["loss"]
