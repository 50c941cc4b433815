"""The Gaussian process against slow NumPy and scikit-learn, and the coverage of the optimum's interval."""

import numpy as np
import pytest
from support.made_up_study import ALPHAS, EPOCHS, rows_of, study_of, surface, written

from mixlm.analysis import gaussian_process, optimum
from mixlm.analysis.cells import read_cells
from mixlm.analysis.gaussian_process import fit
from mixlm.analysis.optimum import optima
from mixlm.analysis.scales import scale_of


def kernel(a, b, amplitude, lengths):
    """Matern 3/2 by its definition, one pair at a time."""
    out = np.empty((len(a), len(b)))
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            distance = np.sqrt(3 * sum(((x[d] - y[d]) / lengths[d]) ** 2 for d in range(len(lengths))))
            out[i, j] = amplitude * (1 + distance) * np.exp(-distance)
    return out


@pytest.fixture(scope="module")
def fitted():
    draw = np.random.default_rng(3)
    inputs = np.repeat(np.array([(a, b) for a in (-5.0, -1.0, 0.5, 2.0) for b in (0.0, 3.0, 6.0)]), 2, axis=0)
    values = 4 + 0.1 * (inputs[:, 0] + inputs[:, 1] - 3) ** 2 + 0.1 * draw.standard_normal(len(inputs))
    return inputs, values, fit(inputs, values, chain=150)


def parts(posterior):
    theta = np.exp(posterior.thetas[0])
    return theta[0], theta[1:-1], theta[-1]


def test_mean_and_deviation_are_those_of_slow_numpy_and_of_scikit_learn(fitted):
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern

    inputs, values, posterior = fitted
    amplitude, lengths, noise = parts(posterior)
    there = np.array([(-3.0, 1.0), (0.0, 5.0), (2.0, 6.0)])
    x, y = (inputs - inputs.min(0)) / np.ptp(inputs, axis=0), (values - values.mean()) / values.std()
    at = (there - inputs.min(0)) / np.ptp(inputs, axis=0)
    inverse = np.linalg.inv(kernel(x, x, amplitude, lengths) + noise * np.eye(len(x)))
    across = kernel(at, x, amplitude, lengths)
    mean = values.mean() + values.std() * across @ inverse @ y
    variance = np.diag(kernel(at, at, amplitude, lengths) - across @ inverse @ across.T)
    found, deviation = posterior.predict(there)
    np.testing.assert_allclose(found, mean, rtol=1e-6)
    np.testing.assert_allclose(deviation, values.std() * np.sqrt(variance), rtol=1e-4)
    other = GaussianProcessRegressor(ConstantKernel(amplitude) * Matern(lengths, nu=1.5), alpha=noise, optimizer=None)
    theirs, spread = other.fit(x, y).predict(at, return_std=True)
    np.testing.assert_allclose(found, values.mean() + values.std() * theirs, rtol=1e-6)
    np.testing.assert_allclose(deviation, values.std() * spread, rtol=1e-4)


def test_drawn_surfaces_have_the_posteriors_mean_and_deviation(fitted):
    _, _, posterior = fitted
    alone = type(posterior)(**{**vars(posterior), "thetas": posterior.thetas[:1]})
    there = np.array([(-3.0, 1.0), (0.0, 5.0)])
    drawn, (mean, deviation) = alone.draw(there, 20_000), alone.predict(there)
    np.testing.assert_allclose(drawn.mean(0), mean, atol=5 * deviation.max() / np.sqrt(20_000))
    np.testing.assert_allclose(drawn.std(0), deviation, rtol=0.03)


def test_a_group_left_out_is_predicted_as_by_a_process_without_it(fitted):
    _, values, posterior = fitted
    amplitude, lengths, noise = parts(posterior)
    groups = np.repeat(np.arange(len(values) // 2), 2).astype(float)
    found = posterior.left_out(groups)
    x, y = posterior.inputs, posterior.outputs
    for group in (0, 5):
        out, kept = groups == group, groups != group
        inverse = np.linalg.inv(kernel(x[kept], x[kept], amplitude, lengths) + noise * np.eye(kept.sum()))
        expected = kernel(x[out], x[kept], amplitude, lengths) @ inverse @ y[kept]
        np.testing.assert_allclose(found[out], values.mean() + values.std() * expected, rtol=1e-5)


def test_hyperparameters_are_likeliest_and_their_noise_is_that_of_replicates(fitted):
    _, values, posterior = fitted
    within = values.reshape(-1, 2).std(1, ddof=1)
    assert posterior.noise == pytest.approx(np.sqrt((within**2).mean()), rel=0.5)
    assert len(posterior.thetas) > 10 and (posterior.thetas.std(0) > 0).all()


def test_a_metric_to_be_raised_has_its_optimum_where_its_negative_has(tmp_path, monkeypatch):
    monkeypatch.setattr(optimum, "DRAWS", 200)
    monkeypatch.setattr(gaussian_process, "RESTARTS", 0)
    monkeypatch.setattr(optimum, "fit", lambda inputs, values: fit(inputs, values, chain=0))
    rows = [row for row in rows_of(epochs=(1, 64), seeds=(0, 1)) if row["last"]]
    for row in rows:
        row["negative"] = -row["validation/causal"]
    study = study_of(rows, metrics={"validation/causal": "min", "negative": "max"}, claims=[])
    cells = read_cells(written(tmp_path, rows, study))
    (low,), (high,) = optima(cells, "validation/causal", "ALPHA"), optima(cells, "negative", "ALPHA")
    np.testing.assert_allclose(low.spans, high.spans, atol=0.1)
    assert low.spans[0][0] > 0.75 > 0.3 > low.spans[1][0]
    np.testing.assert_allclose(low.densities.sum(1), 1.0)


def covered(inputs, values, grid, others, truth, along):
    """Whether the 95% interval of the best place holds the true one, at each value of the other axis."""
    posterior = fit(inputs, values)
    places = np.array([(u, v) for v in others for u in grid])
    best = grid[posterior.draw(places, 480).reshape(-1, len(others), len(grid)).argmin(2)]
    low, high = np.quantile(best, (0.025, 0.975), axis=0)
    half = (grid[1] - grid[0]) / 2
    return (low - half <= truth) & (truth <= high + half)


def design():
    alpha, epochs = scale_of(ALPHAS), scale_of(EPOCHS)
    inputs = np.array([(alpha.forward(a), epochs.forward(e)) for a in ALPHAS for e in EPOCHS for _ in range(3)])
    grid = np.linspace(inputs[:, 0].min(), inputs[:, 0].max(), 61)
    return alpha, inputs, grid, np.array([float(epochs.forward(e)) for e in EPOCHS])


@pytest.mark.slow
def test_the_optimums_interval_covers_the_truth_as_often_as_it_says(noise=0.15):
    """200 surfaces of known best places, drawn anew, with known noise: 90 to 99% of the intervals hold the truth."""
    _, inputs, grid, others = design()
    both = np.concatenate([np.array([(u, v) for v in others for u in grid]), inputs])
    scaled = (both - inputs.min(0)) / np.ptp(inputs, axis=0)
    covariance = gaussian_process._matern(scaled, scaled, np.log([0.25, 0.6, 1.5, 0.01]))
    factor = np.linalg.cholesky(covariance + 1e-8 * np.eye(len(both)))
    held = []
    for repetition in range(200):
        draw = np.random.default_rng(repetition)
        surfaces = factor @ draw.standard_normal(len(both))
        truth = grid[surfaces[: -len(inputs)].reshape(len(others), -1).argmin(1)]
        values = surfaces[-len(inputs) :] + noise * draw.standard_normal(len(inputs))
        held.append(covered(inputs, values, grid, others, truth, None))
    share = np.mean(held)
    print(f"noise {noise}: {100 * share:.1f}% of the intervals hold the truth")
    assert 0.90 <= share <= 0.99


@pytest.mark.slow
def test_the_interval_is_wide_enough_where_the_surface_is_one_and_the_same():
    """One smooth surface, 25 times new noise: the interval is wider than need be, and never too narrow."""
    alpha, inputs, grid, others = design()
    exact = np.array([surface(alpha.backward(u), 2.0**v) for u, v in inputs])
    truth = np.array([grid[np.argmin([surface(alpha.backward(u), 2.0**v) for u in grid])] for v in others])
    held = []
    for repetition in range(25):
        values = exact + 0.1 * np.random.default_rng(repetition).standard_normal(len(inputs))
        held.append(covered(inputs, values, grid, others, truth, None))
    print(f"{100 * np.mean(held):.1f}% of the intervals hold the truth")
    assert np.mean(held) >= 0.90
