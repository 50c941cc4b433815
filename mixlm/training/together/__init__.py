"""Several runs in one program: cells of a sweep under `vmap`, each with a folder of its own."""

from mixlm.training.together.grouping import groups
from mixlm.training.together.run import train_together

__all__ = ["groups", "train_together"]
