"""Gaussian-process regression of a metric over the axes of a study: anisotropic Matern 3/2 with white noise."""

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

# Ours: bounds on inputs scaled to a unit range and outputs of unit variance. A length scale below a twentieth of the
# range would see nothing between neighbours; one of 30 ranges is a constant.
LENGTHS, AMPLITUDES, NOISES = (0.05, 30.0), (1e-2, 1e3), (1e-6, 1.0)
RESTARTS = 3
# Ours: steps of the chain over hyperparameters, those left out at its start, and how many of the others are kept.
CHAIN, BURN_IN, KEPT = 600, 120, 24
_JITTER = 1e-9


@dataclass(frozen=True)
class Posterior:
    """The posterior of a surface given noisy values, at the likeliest hyperparameters and at others drawn.

    `thetas` are (log amplitude, log length scales, log noise), the likeliest first, on inputs of unit range (`low`,
    `span`) and outputs of zero mean and unit variance (`mean`, `deviation`).
    """

    inputs: Float[np.ndarray, "N D"]
    outputs: Float[np.ndarray, " N"]
    thetas: Float[np.ndarray, "K P"]
    low: Float[np.ndarray, " D"]
    span: Float[np.ndarray, " D"]
    mean: float
    deviation: float

    @property
    def length_scales(self) -> Float[np.ndarray, " D"]:
        """The likeliest length scales, in the units of the inputs."""
        return np.exp(self.thetas[0][1:-1]) * self.span

    @property
    def noise(self) -> float:
        """The likeliest standard deviation of the noise, in the units of the outputs."""
        return float(np.exp(self.thetas[0][-1] / 2)) * self.deviation

    def predict(self, places: Float[np.ndarray, "M D"]) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
        """Mean and standard deviation of the surface itself, without noise, at the likeliest hyperparameters."""
        mean, covariance = self._conditional(self.thetas[0], (places - self.low) / self.span)
        deviation = np.sqrt(np.maximum(np.diag(covariance), 0.0))
        return self.mean + self.deviation * mean, self.deviation * deviation

    def draw(self, places: Float[np.ndarray, "M D"], many: int, seed: int = 0) -> Float[np.ndarray, "S M"]:
        """`many` surfaces or a few more, in equal parts from each of the drawn hyperparameters."""
        generator, scaled = np.random.default_rng(seed), (places - self.low) / self.span
        drawn = []
        chain = self.thetas[1:] if len(self.thetas) > 1 else self.thetas
        for theta in chain:
            mean, covariance = self._conditional(theta, scaled)
            factor = np.linalg.cholesky(covariance + _JITTER * np.exp(theta[0]) * 10 * np.eye(len(mean)))
            noise = generator.standard_normal((-(-many // len(chain)), len(mean)))
            drawn.append(self.mean + self.deviation * (mean + noise @ factor.T))
        return np.concatenate(drawn)

    def left_out(self, groups: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        """Predictions of each value from the values of the other groups alone, at the likeliest hyperparameters.

        With Q = (K + noise)^-1, those of group g are y_g - Q_gg^-1 (Q y)_g.
        """
        theta = self.thetas[0]
        precision = np.linalg.inv(_matern(self.inputs, self.inputs, theta) + _noise(theta) * np.eye(len(self.inputs)))
        weights, predicted = precision @ self.outputs, np.empty_like(self.outputs)
        for group in np.unique(groups):
            (rows,) = np.nonzero(groups == group)
            predicted[rows] = self.outputs[rows] - np.linalg.solve(precision[np.ix_(rows, rows)], weights[rows])
        return self.mean + self.deviation * predicted

    def _conditional(self, theta: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        factor = np.linalg.cholesky(_matern(self.inputs, self.inputs, theta) + _noise(theta) * np.eye(len(self.inputs)))
        across = _matern(self.inputs, places, theta)
        half = np.linalg.solve(factor, across)
        mean = half.T @ np.linalg.solve(factor, self.outputs)
        return mean, _matern(places, places, theta) - half.T @ half


def _matern(a: np.ndarray, b: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Amplitude (1 + sqrt(3) d) exp(-sqrt(3) d), d the distance in length scales."""
    lengths = np.exp(theta[1:-1])
    x, y = a / lengths, b / lengths
    square = (x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2 * x @ y.T
    distance = np.sqrt(3 * np.maximum(square, 0.0))
    return np.exp(theta[0]) * (1 + distance) * np.exp(-distance)


def _noise(theta: np.ndarray) -> float:
    return float(np.exp(theta[-1])) + _JITTER


def fit(inputs: Float[np.ndarray, "N D"], values: Float[np.ndarray, " N"], chain: int = CHAIN) -> Posterior:
    """The posterior given `values` at `inputs`: likeliest hyperparameters by scikit-learn, others by Metropolis steps.

    The chain's prior is flat on the logarithms of the hyperparameters within the bounds.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    low, span = inputs.min(0), np.ptp(inputs, axis=0)
    span = np.where(span > 0, span, 1.0)
    mean, deviation = float(values.mean()), float(values.std()) or 1.0
    scaled, outputs = (inputs - low) / span, (values - mean) / deviation
    lengths = np.ones(inputs.shape[1])
    kernel = ConstantKernel(1.0, AMPLITUDES) * Matern(lengths, LENGTHS, nu=1.5) + WhiteKernel(0.05, NOISES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a hyperparameter at its bound
        process = GaussianProcessRegressor(kernel, alpha=_JITTER, n_restarts_optimizer=RESTARTS, random_state=0)
        process.fit(scaled, outputs)
    likeliest = process.kernel_.theta
    kept = _chain(process, likeliest, chain)
    return Posterior(scaled, outputs, np.vstack([likeliest[None], kept]), low, span, mean, deviation)


def _chain(process: object, start: np.ndarray, steps: int) -> np.ndarray:
    """Hyperparameters from their posterior, by adaptive Metropolis steps from the likeliest."""
    generator, bounds = np.random.default_rng(0), process.kernel_.bounds  # type: ignore[attr-defined]
    likelihood = process.log_marginal_likelihood  # type: ignore[attr-defined]
    theta, level, width, visited = start, likelihood(start), 0.4, []
    for step in range(steps):
        proposed = theta + width * generator.standard_normal(len(theta))
        accepted = False
        if ((proposed >= bounds[:, 0]) & (proposed <= bounds[:, 1])).all():
            there = likelihood(proposed)
            accepted = np.log(generator.random()) < there - level
            theta, level = (proposed, there) if accepted else (theta, level)
        if step < BURN_IN:
            # Robbins-Monro towards three accepted steps in ten.
            width *= np.exp((accepted - 0.3) * 0.15)
        visited.append(theta)
    return np.array(visited[BURN_IN :: max(1, (steps - BURN_IN) // KEPT)])[:KEPT] if steps > BURN_IN else start[None]
