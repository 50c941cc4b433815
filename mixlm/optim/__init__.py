"""Optimizers: update rules and a learning-rate schedule, layer by layer, with a state per network."""

from mixlm.optim.adafactor import Adafactor
from mixlm.optim.adamw import AdamW
from mixlm.optim.base import Rule
from mixlm.optim.lamb import LAMB
from mixlm.optim.muon import Muon
from mixlm.optim.optimizer import Optimizer

__all__ = ["LAMB", "Adafactor", "AdamW", "Muon", "Optimizer", "Rule"]
