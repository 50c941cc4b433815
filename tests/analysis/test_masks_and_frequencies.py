"""Figures from plain values: masks by the networks' own rule, losses by frequency."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import gmean

from mixlm.analysis import frequency_figure as module
from mixlm.analysis.frequency_figure import FrequencyBins, frequency_figure
from mixlm.analysis.mask_figure import MaskPanel, attended, mask_figure
from mixlm.models.attention.masks import self_mask

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("mask_ar", [[1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [0, 0, 0, 1, 1], [1, 0, 1, 0, 1]])
@pytest.mark.parametrize("segments", [[1, 1, 1, 1, 1], [1, 1, 2, 2, 0]])
def test_the_mask_that_is_drawn_is_the_one_of_the_networks(mask_ar, segments):
    mask_ar, segments = np.array(mask_ar, np.int32), np.array(segments, np.int32)
    networks = self_mask(jnp.asarray(mask_ar[None]), jnp.asarray(segments[None])).dense()[0]
    np.testing.assert_array_equal(attended(mask_ar, segments), networks)


def test_masks_are_drawn_with_and_without_names():
    long = np.ones(40, np.int32)
    panels = [
        MaskPanel("named", attended(long[:3], long[:3]), ["a$", " b", "<extra_id_0>"], ["a$", " b", "c"], long[:3] > 1),
        MaskPanel("unnamed", attended(long, long), ["x"] * 40, ["x"] * 40, long > 0),
    ]
    assert mask_figure(panels).startswith(PNG)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 8))
def test_bins_by_frequency_keep_every_token_and_the_mean(counts, bins):
    counts = np.array(counts)
    found = FrequencyBins.of(counts, bins)
    sizes = np.bincount(found.of_token, minlength=len(found.middle))
    assert sizes.sum() == len(counts) and sizes.min() > 0
    # Ordered by frequency, equal counts together, and the bins' means weigh up to the mean of all.
    assert all(len(set(found.of_token[counts == each])) == 1 for each in set(counts.tolist()))
    assert (np.diff(found.middle) > 0).all()
    values = np.cos(np.arange(len(counts)))
    np.testing.assert_allclose((found.mean(values) * sizes).sum() / sizes.sum(), values.mean(), atol=1e-12)
    for index, middle in enumerate(found.middle):
        assert middle == pytest.approx(gmean(np.maximum(counts[found.of_token == index], 0.5)))


@given(st.integers(0, 2**32 - 1), st.integers(1, 8))
def test_bins_of_counts_that_all_differ_are_of_equal_size(seed, bins):
    counts = np.random.default_rng(seed).permutation(np.arange(1, 30))
    sizes = np.bincount(FrequencyBins.of(counts, bins).of_token)
    assert len(sizes) == bins and sizes.max() - sizes.min() <= 1


def test_losses_are_drawn_by_frequency(monkeypatch):
    losses = {name: np.linspace(1, 2, 6) + each for each, name in enumerate(["x", "y"])}
    assert frequency_figure({"x": losses["x"]}, np.arange(6)).startswith(PNG)
    figures, png = [], module.png
    monkeypatch.setattr(module, "png", lambda drawn: figures.append(drawn) or png(drawn))
    frequency_figure(losses, np.arange(6), 3)
    absolute, relative = figures[0].axes
    places = [gmean(pair) for pair in ((0.5, 1), (2, 3), (4, 5))]
    means = np.array([1.1, 1.5, 1.9])
    for axes, heights in ((absolute, (means, means + 1)), (relative, (0 * means, 0 * means + 1))):
        for line, height in zip(axes.get_lines(), heights, strict=True):
            np.testing.assert_allclose(line.get_xydata(), np.transpose([places, height]), atol=1e-12)
