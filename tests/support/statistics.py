"""Counts against the shares that they are drawn from."""

import numpy as np
import scipy.stats


def softmax(logits):
    weights = np.exp(np.asarray(logits, np.float64) - np.max(logits))
    return weights / weights.sum()


def agrees(counts, shares):
    """Whether counts may come from these shares (chi-square, 1 in 1000)."""
    assert counts[shares == 0].sum() == 0
    expected = shares * counts.sum()
    # The approximation needs a few of each kind: the rare ones are counted together.
    rare = expected < 8
    found, expected = (np.append(x[~rare], x[rare].sum()) for x in (counts, expected))
    keep = expected > 0
    return scipy.stats.chisquare(found[keep], expected[keep]).pvalue > 1e-3
