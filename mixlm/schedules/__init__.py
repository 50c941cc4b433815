"""Schedules, step -> value: learning rates, objective weights, data rates; frozen and hashable, so static under jit.

The fields named in `traced` may be arguments of the compiled step instead: no schedule branches on them in Python.
"""

from mixlm.schedules.base import Number, Schedule, SpansRun, Step
from mixlm.schedules.by_step import Constant, Linear, Piecewise, RsqrtDecay
from mixlm.schedules.scaled import Scaled, check_steps, over, scaled_down, scaled_to
from mixlm.schedules.whole_run import WSD, Cosine, CosineWithCooldown

__all__ = [
    "WSD",
    "Constant",
    "Cosine",
    "CosineWithCooldown",
    "Linear",
    "Number",
    "Piecewise",
    "RsqrtDecay",
    "Scaled",
    "Schedule",
    "SpansRun",
    "Step",
    "check_steps",
    "over",
    "scaled_down",
    "scaled_to",
]

for _schedule in (WSD, Constant, Cosine, CosineWithCooldown, Linear, Piecewise, RsqrtDecay, Scaled):
    _schedule.__module__ = __name__  # as gin files and the config.gin of runs name them
