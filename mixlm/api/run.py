"""`Run`: a run's folder in Python, whether it is finished, running or stopped."""

import base64
import dataclasses
import html
import io
import itertools
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from mixlm import files
from mixlm.checkpoints.load import check_run, load_params, nearest_run
from mixlm.checkpoints.run_dir import RunDir
from mixlm.checkpoints.saving import Checkpoints
from mixlm.data.loader.batches import as_batch
from mixlm.errors import UserError, nearest
from mixlm.evaluation.folders import latest_evaluation
from mixlm.files import read_json
from mixlm.gin_config.build import load
from mixlm.paths import RunRef, within
from mixlm.perf.compilation_cache import EXECUTABLES, kept_in
from mixlm.recipe import Recipe
from mixlm.reports import curves, metrics
from mixlm.reports.examples import Examples
from mixlm.reports.shading import ShadedTokens
from mixlm.reports.table import Table, cell
from mixlm.training.beliefs import beliefs
from mixlm.training.examples import distinct, trained_examples


class Run:
    """A run by its folder; what is read from it is read when it is asked for, so a running one shows its latest state.

    Args:
      folder: `runs/a`, or `runs/a@400`, `runs/a@best` or `runs/a@chck_1M` for the parameters of a checkpoint.
      recipe: the recipe that the run was trained with; by default it is built from the folder's config.gin.

    Raises:
      UserError: where the folder holds no run.

    Example: `Run("runs/a").curves()`.
    """

    def __init__(self, folder: str | os.PathLike[str], recipe: Recipe | None = None) -> None:
        self._ref = RunRef.parse(folder)
        self._files = RunDir(self._ref.folder)
        self._given = None if recipe is None else dataclasses.replace(recipe, model_dir=str(self._ref))
        self._restored: tuple[int, dict[str, Any]] | None = None
        if not os.path.isfile(self._files.recipe):
            raise UserError(f"There is no run in {self.folder} (no recipe.json).{nearest_run(self.folder)}")

    @property
    def folder(self) -> Path:
        """The run's folder: metrics.jsonl, config.gin, checkpoints/ and, at the end, curves.png and samples.txt."""
        return self._ref.folder

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe of the run; raises UserError where config.gin does not build it."""
        if self._given is not None:
            return self._given
        config = self._files.config
        if not os.path.lexists(config) or not files.read_text(config).strip():
            raise UserError(
                f"{config} holds no recipe, since the run's was made in Python: "
                f"give it as Run({str(self._ref)!r}, recipe)."
            )
        recipe = load(config.absolute(), **{"mixlm.recipe.Recipe.model_dir": str(self._ref)})
        check_run(recipe)
        return recipe

    @property
    def metrics(self) -> Table:
        """A row for each logged step: losses, validation, speed, tokens read and FLOPs, as metrics.jsonl has them."""
        return Table(metrics.read(self.folder))

    @property
    def history(self) -> Table:
        """As `metrics`, after those of the run that this one goes on from with its optimizer (INIT_OPTIMIZER)."""
        rows = self.metrics.rows
        recipe = self.recipe
        if not (recipe.init_optimizer and recipe.init_from):
            return Table(rows)
        stem = RunRef.parse(recipe.init_from, "INIT_FROM")
        first = min((row["step"] for row in rows), default=0)
        before = Run(stem.folder).history.rows if RunDir(stem.folder).recipe.is_file() else []
        return Table([*(row for row in before if row["step"] < first), *rows])

    @property
    def switches(self) -> list[tuple[int, str]]:
        """The steps before which stages after the first begin, and their objectives."""
        recipe = self.recipe
        return _logged_switches(self.history.rows) if recipe.train_steps is None else _switches(recipe)

    @property
    def step(self) -> int:
        """The last logged step, 0 without one."""
        return int(max((row["step"] for row in self.metrics), default=0))

    @property
    def finished(self) -> bool:
        """True once the run has reached its last step and written its report."""
        return self._files.curves.is_file()

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of every network, of the checkpoint that the address names or else the newest.

        Raises UserError where there is no such checkpoint.
        """
        checkpoints = Checkpoints(self._files.checkpoints)
        step = checkpoints.resolve(self._ref, self.recipe.best) if self._ref.which else checkpoints.latest()
        if self._restored is None or self._restored[0] != step:
            self._restored = load_params(self.recipe, tuple(self.recipe.networks))
        return self._restored[1]

    @property
    def evaluation(self) -> dict[str, Any]:
        """The newest evaluation that `mixlm evaluate` wrote: the content of its text.json as "text" and, with minimal
        pairs, of its minimal_pairs.json as "minimal_pairs"; of a supervised run, that of its tasks.json as "tasks".

        Raises UserError where there is none.
        """
        folder = latest_evaluation(self.folder)
        paths = {name: within(folder, f"{name}.json") for name in ("text", "minimal_pairs", "tasks")}
        return {name: read_json(path) for name, path in paths.items() if path.exists()}

    def examples(self, rows: int = 3) -> Examples:
        """Validation rows as each objective corrupts them, with what the networks predict beside the targets.

        Raises UserError where there is no checkpoint, or the text is not here.
        """
        with kept_in(self.recipe.dataset.cache / EXECUTABLES):
            return trained_examples(*self._validation(rows), self.params)

    def beliefs(self, rows: int = 3) -> ShadedTokens:
        """Validation rows as the discriminator reads them, each token shaded by its probability of being replaced.

        Of a run whose last stage has no discriminator, `Run("RUN@STEP")` is a checkpoint of the stage that has one.
        Raises UserError where no stage has one, where there is no checkpoint, or the text is not here.
        """
        with kept_in(self.recipe.dataset.cache / EXECUTABLES):
            return beliefs(*self._validation(rows), self.params)

    def _validation(self, rows: int) -> tuple[Recipe, Any, dict[str, Any]]:
        """The recipe at its length, the vocabulary, and distinct rows of the validation split."""
        recipe = self.recipe
        data: Any = recipe.dataset.prepare(lambda _: None)
        length = recipe.block_length
        recipe = recipe.settled(data.summary.unique_tokens, data.rows_of(length, recipe.epochs))
        count = recipe.eval_batches * recipe.batch_size
        chosen = as_batch(data.validation_rows(length, count, before=recipe.before), recipe.before)
        return recipe, data.vocabulary, distinct(chosen, rows)

    def curves(self, against: str | Sequence[str] | None = None) -> Any:
        """A matplotlib Figure of every training and validation term, made without pyplot.

        `against` is one or some of "step", "flops", "tokens" and "epoch"; by default what the recipe's CURVES name.
        """
        axes = (against,) if isinstance(against, str) else against
        for name in axes or ():
            if name not in curves.AXES:
                raise UserError(
                    f"Curves are drawn against {', '.join(curves.AXES)}, not {name!r}.{nearest(name, curves.AXES)}"
                )
        records = self.metrics.rows
        try:
            recipe = self.recipe
        except UserError:
            # The record can be drawn where the recipe's classes are not installed.
            return curves.figure(records, _logged_switches(records), self.folder.name, axes or ("step", "flops"))
        switches = _logged_switches(records) if recipe.train_steps is None else _switches(recipe)
        return curves.figure(records, switches, recipe.name, axes or recipe.curves)

    def __repr__(self) -> str:
        return f"Run({str(self._ref)!r}, {self._state()})"

    def _repr_html_(self) -> str:
        head = f"<p><b>{html.escape(str(self._ref))}</b>, {self._state()}</p>"
        records = self.metrics.rows
        if not records:
            return head
        picture = io.BytesIO()
        self.curves().savefig(picture, format="png")
        data = base64.b64encode(picture.getvalue()).decode()
        return f'{head}{_figures(records)}<img alt="curves" style="max-width:100%" src="data:image/png;base64,{data}"/>'

    def _state(self) -> str:
        if self.finished:
            return f"finished after step {self.step:,}"
        return f"at step {self.step:,}" if self.step else "no step logged yet"


def _switches(recipe: Recipe) -> list[tuple[int, str]]:
    """The steps before which stages begin, and their names."""
    return [(stage.first, stage.objective.name) for stage, _ in recipe.stages.spans(recipe.steps)[1:]]


def _logged_switches(records: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
    """As `_switches`, to within the steps that are logged."""
    pairs = itertools.pairwise(records)
    return [(here["step"], there["stage"]) for here, there in pairs if here["stage"] != there["stage"]]


def _figures(records: Sequence[Mapping[str, Any]]) -> str:
    """The last values of the loss, the terms and validation as an HTML table."""
    latest = {name: value for record in records for name, value in record.items()}
    names = [name for name in latest if name == "loss" or (name.count("/") == 1 and not name.startswith("spent/"))]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(f"<td>{cell(latest[name])}</td>" for name in names)
    return f"<table><thead><tr>{head}</tr></thead><tbody><tr>{body}</tr></tbody></table>"
