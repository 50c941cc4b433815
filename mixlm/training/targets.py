"""What an objective's terms score in a batch, compiled once for all numbers of an objective."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from mixlm.objectives.base import Objective, targets_of
from mixlm.training import traced_hparams


def targets_by_term(objective: Objective, keys: Any, batch: Mapping[str, Any], step: int) -> dict[str, Any]:
    """The tokens of each term's targets and the mask of those scored, None for all, on the host."""
    static, numbers = traced_hparams.hoist(objective)
    scalars = tuple(map(np.float32, numbers))
    return jax.device_get(_targets(static, scalars, keys, dict(batch), np.int32(step)))


@partial(jax.jit, static_argnums=0)  # cells of one study share it
def _targets(static, numbers, keys, batch, step):
    found = targets_of(traced_hparams.bind(static, numbers), keys, batch, step)
    return {name: (each.tokens, each.scored) for name, each in found.items()}
