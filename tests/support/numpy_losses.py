"""Token losses in NumPy, and random cases for them."""

import jax.numpy as jnp
import numpy as np

from mixlm.losses.token_losses import Focal, MiLe


def softmax(logits: np.ndarray) -> np.ndarray:
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def numpy_cost_and_scale(loss, logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The three losses from their formulas, in float64."""
    logits = np.asarray(logits, np.float64)
    p = softmax(logits)
    log_z = np.log(np.exp(logits).sum(-1))
    said = np.take_along_axis(p, targets[..., None], -1)[..., 0]
    cost = -np.log(said) + loss.z_loss * log_z**2
    if isinstance(loss, MiLe):
        return cost, (1 - np.sum(p * np.log(p), -1)) ** loss.gamma
    return cost, (1 - said) ** loss.gamma if isinstance(loss, Focal) else np.ones_like(cost)


def random_case(rows: int, length: int, vocab: int = 13, dim: int = 5, seed: int = 0):
    generator = np.random.default_rng(seed)
    hidden = generator.normal(size=(rows, length, dim)).astype(np.float32)
    head = generator.normal(size=(dim, vocab)).astype(np.float32)
    targets = generator.integers(0, vocab, (rows, length)).astype(np.int32)
    weights = (generator.uniform(0.5, 3, (rows, length)) * (generator.uniform(size=(rows, length)) < 0.7)).astype(
        np.float32
    )
    noise = generator.uniform(size=(rows, length)).astype(np.float32)
    return tuple(jnp.asarray(x) for x in (hidden, head, targets, weights, noise))
