"""MLflow, at MLFLOW_TRACKING_URI and in the experiment MLFLOW_EXPERIMENT_NAME."""

import os
import re
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar

from mixlm.reports.trackers.base import PROJECT, About

# What MLflow takes in a metric's name; a band's has a % as well.
_NOT_IN_NAMES = re.compile(r"[^\w\-. /]")
_LONGEST = 6000  # MLflow's limit of a parameter, in characters


class MLflow:
    """A run of MLflow, which goes on under its id where ours resumes; the steps that it has are not sent again.

    A thread of its own sends, so that no step waits for a server; what fails there is raised by the next call.
    """

    library: ClassVar[str] = "mlflow"
    extra: ClassVar[str | None] = "mlflow"

    def __init__(self, about: About) -> None:
        from mlflow import MlflowClient

        self._client, known = MlflowClient(), about.known("mlflow")
        self._run, self._sent = known or self._created(about), -1
        if known:
            self._client.update_run(known, status="RUNNING")
            # Every line has a loss.
            self._sent = max((each.step for each in self._client.get_metric_history(known, "loss")), default=-1)
        self._sender = ThreadPoolExecutor(1, thread_name_prefix="mlflow")
        self._pending: list[Future[Any]] = []

    def _created(self, about: About) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        run: str = self._client.create_run(experiment, run_name=about.name).info.run_id
        about.remember("mlflow", run)
        for key, value in about.settings.items():
            self._client.log_param(run, _NOT_IN_NAMES.sub("_", key), value[:_LONGEST])
        return run

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Leaves the figures to the thread."""
        self._check()
        if step > self._sent:
            self._pending.append(self._sender.submit(self._send, step, numbers, int(1000 * time.time())))

    def _send(self, step: int, numbers: Mapping[str, float], milliseconds: int) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(_NOT_IN_NAMES.sub("_", name), number, milliseconds, step) for name, number in numbers.items()]
        self._client.log_batch(self._run, metrics=metrics, synchronous=True)

    def _check(self) -> None:
        done = [each for each in self._pending if each.done()]
        self._pending = [each for each in self._pending if not each.done()]
        for each in done:
            if error := each.exception():
                self._sender.shutdown(wait=False, cancel_futures=True)
                raise error

    def close(self) -> None:
        """Waits until all is sent."""
        self._sender.shutdown(wait=True)
        self._check()
        self._client.set_terminated(self._run)
