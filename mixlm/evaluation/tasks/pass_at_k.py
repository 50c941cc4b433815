"""pass@k: the chance that one of k programs passes its tests, from n samples (Chen et al. 2021, arXiv 2107.03374)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mixlm.errors import UserError
from mixlm.evaluation.tasks.answers import texts_of
from mixlm.evaluation.tasks.programs import ENDED, TIMED_OUT, Limits, run_programs


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The unbiased estimate `1 - C(n - c, k) / C(n, k)` for c of n samples that passed (equation 1), as a product."""
    if samples - passed < k:
        return 1.0
    return 1.0 - float(np.prod(1.0 - k / np.arange(samples - passed + 1, samples + 1)))


@dataclass(frozen=True)
class PassAtK:
    """A metric of programs, each run with its target's tests behind it (see `answers.mbpp`); in percent.

    A prediction is one program, or a list of samples. Beside `pass@k` stands `timed_out`, the share of programs that
    did not end. Raises NotPermitted where generated programs may not be run, and UserError for fewer samples than k.
    """

    ks: tuple[int, ...] = (1,)
    limits: Limits = Limits()

    def __call__(self, targets: Sequence[str], predictions: Sequence[str | Sequence[str]]) -> dict[str, float]:
        """The means over problems."""
        samples = [texts_of(said) for said in predictions]
        fewest = min(map(len, samples), default=0)
        if samples and fewest < max(self.ks):
            raise UserError(
                f"pass@{max(self.ks)} needs {max(self.ks)} samples of each problem, and there are {fewest}: raise "
                "METRIC_SAMPLES."
            )
        programs = [f"{program}\n\n{tests}" for each, tests in zip(samples, targets) for program in each]
        ends = iter(run_programs(programs, self.limits))
        outcomes = [[next(ends) for _ in each] for each in samples]
        found = {f"pass@{k}": _mean(pass_at_k(len(each), each.count(ENDED), k) for each in outcomes) for k in self.ks}
        return found | {"timed_out": _mean(end == TIMED_OUT for each in outcomes for end in each)}


def _mean(values: object) -> float:
    found = [float(value) for value in values]  # type: ignore[attr-defined]
    return 100 * sum(found) / len(found) if found else 0.0
