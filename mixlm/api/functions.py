"""The commands as functions: a recipe in, a run, a table or continuations out; a mistake raises UserError."""

import html
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from mixlm.api.run import Run
from mixlm.data.sources.auto import Text, source_of
from mixlm.data.sources.base import normalize_whitespace
from mixlm.data.sources.kinds import kinds
from mixlm.decoding import run as decoding
from mixlm.errors import UserError, nearest
from mixlm.evaluation.minimal_pairs import Accuracies
from mixlm.evaluation.perplexity import TextFigures
from mixlm.evaluation.run import Scoring, prepare, score
from mixlm.files import check_text
from mixlm.gin_config.build import load as load_recipe
from mixlm.paths import local
from mixlm.perf.compilation_cache import EXECUTABLES, kept_in
from mixlm.perf.profiler import Profile
from mixlm.recipe import Recipe
from mixlm.reports.denoising import steps_table
from mixlm.reports.table import Table
from mixlm.training import run as training
from mixlm.training.summary import Explanation

__all__ = ["Continuations", "Scores", "decode", "evaluate", "explain", "load_recipe", "train"]


def train(recipe: Recipe, say: Callable[[str], Any] = print, profile: str | None = None) -> Run:
    """Trains a recipe to its last step, going on from the newest checkpoint in its folder.

    Args:
      recipe: what to train, such as `load_recipe` returns.
      say: is called with each line of the summary and the report.
      profile: `"START:STOP"`, the steps to trace into the folder's `profile`.

    Returns:
      The run.

    Raises:
      UserError: for a folder that holds another run, and for a loss that is not finite; nothing is lost.
      Stopped: a KeyboardInterrupt, for a signal; the state is saved, and training the same recipe goes on from there.

    Example: `train(load_recipe("dual.gin", TRAIN_STEPS=50))`.
    """
    training.train(checked(recipe), say, None if profile is None else Profile.of(profile))
    return Run(recipe.folder, recipe)


def explain(recipe: Recipe, say: Callable[[str], Any] = print) -> Explanation:
    """Returns what training would do, with examples of every objective; nothing is trained.

    It prints as `--explain` does; in a notebook, the examples show masked, replaced and scored tokens in colours. `say`
    is called while the data are prepared.
    """
    return training.explain(checked(recipe), say)


class Scores(Table):
    """A row for each mode of the network: figures of the text, then accuracies on minimal pairs in percent.

    Columns are mode, kind, rows, tokens, nats_per_token, nats_error, perplexity, bits_per_byte, bits_error, bytes and
    unknown (the share of the bytes that is <unk>); the last four are None where bytes are not known. With minimal pairs
    there are overall, low and high (a 95% bootstrap interval), over_pairs, ties, and each field. `figures` and
    `accuracies` are the same by mode as values, the latter with each paradigm.
    """

    def __init__(self, figures: Mapping[str, TextFigures | None], accuracies: Mapping[str, Accuracies]) -> None:
        self.figures, self.accuracies = dict(figures), dict(accuracies)
        super().__init__([{"mode": mode} | self._text(mode) | self._pairs(mode) for mode in figures])

    def _text(self, mode: str) -> dict[str, Any]:
        figures = self.figures[mode]
        if figures is None:
            return {}
        names = ["kind", "rows", "tokens", "nats_per_token", "nats_error"]
        names += ["perplexity", "bits_per_byte", "bits_error", "bytes", "unknown"]
        return {name: getattr(figures, name) for name in names}

    def _pairs(self, mode: str) -> dict[str, Any]:
        if mode not in self.accuracies:
            return {}
        found = self.accuracies[mode]
        interval = {"overall": found.overall.value, "low": found.overall.low, "high": found.overall.high}
        shares = interval | {"over_pairs": found.over_pairs.value}
        fields = {name: 100 * each.value for name, each in found.fields.items()}
        return {name: 100 * share for name, share in shares.items()} | {"ties": found.ties} | fields


def evaluate(
    run: "Run | Recipe | str | os.PathLike[str]",
    text: str | os.PathLike[str] | None = None,
    minimal_pairs: str | os.PathLike[str] | None = None,
    modes: str | Sequence[str] | None = None,
    say: Callable[[str], Any] = print,
    **settings: Any,
) -> Scores:
    """Scores text, and minimal pairs, in every mode of a run's network; writes nothing.

    Args:
      run: the run, its recipe or its folder.
      text: what to score instead of the validation split, all of it: a file or folder (as for `--text`), or the text
        itself.
      minimal_pairs: a folder of BLiMP's JSONL files, `"tfds:NAME"` or `"made:SEED"`.
      modes: names of modes, such as `["causal", "prefix"]`; None is all that the network has.
      say: is called while the data are prepared.
      **settings: `rows` of the validation split, `positions` of each piece of text where one is masked at a time (None:
        every one, as by default of a `text`), `samples` of a diffusion bound, `pairs` of each paradigm,
        `pair_normalisation`, `context` and `ties`, `resamples` of the bootstrap, `seed`, `batch_tokens` and `network`,
        as gin/evaluate.gin describes them.

    Returns:
      A table with a row for each mode.

    Raises:
      UserError: for a folder without a run, and for a text, pairs, mode or setting that there is not.

    Example: `evaluate("runs/a", text="The Congress shall meet in December.").to_pandas()`.
    """
    known = [field.name for field in fields(Scoring) if field.name not in ("minimal_pairs", "modes")]
    for name in settings:
        if name not in known:
            raise UserError(f"evaluate has no setting {name!r}, only {', '.join(known)}.{nearest(name, known)}")
    if text is not None and "rows" in settings:
        raise UserError("rows are those of the validation split, and a text is scored whole: give one of them.")
    settings = ({} if text is None else {"positions": None}) | settings
    chosen = modes if modes is None or isinstance(modes, str) else tuple(modes)
    scoring = Scoring(None if minimal_pairs is None else os.fspath(minimal_pairs), modes=chosen, **settings)
    recipe = recipe_of(run)
    documents = None if text is None else documents_of(text)
    with kept_in(recipe.dataset.cache / EXECUTABLES):
        return Scores(*score(prepare(recipe, scoring, say, documents)))


def documents_of(text: str | os.PathLike[str]) -> Callable[[], Iterable[str]]:
    """The documents of a file or folder, or `text` itself as one.

    One word with a slash or the ending of a text file is a path, whether it exists or not. Raises UserError
    for a path at which there is no text.
    """
    if isinstance(text, str):
        looks_like_a_path = len(text.split()) == 1 and ("/" in text or any(kind.reads(text) for kind in kinds()))
        if not looks_like_a_path and not _exists(text):
            check_text(text, "The text")
            return lambda: [normalize_whitespace(text)]
    source = source_of(Text(os.fspath(text)))
    return source.all_documents


def _exists(text: str) -> bool:
    try:
        return local(text).exists()
    except UserError:
        # A text may be longer than any path, or hold what no path does.
        return False


class Continuations(list[decoding.Continuation]):
    """Continued prompts in order, and remarks on them; they print as the command prints them."""

    def __init__(self, found: Sequence[decoding.Continuation], notes: Sequence[str] = ()) -> None:
        super().__init__(found)
        self.notes = list(notes)

    def __str__(self) -> str:
        return "\n\n".join([*self.notes, *map(str, self)])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        return notes + "".join(map(_continuation_html, self))


def decode(
    run: "Run | Recipe | str | os.PathLike[str]",
    texts: str | Sequence[str],
    how: str | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
    show_steps: bool = False,
    **settings: Any,
) -> Continuations:
    """Continues prompts with a trained run.

    Args:
      run: the run, its recipe or its folder.
      texts: a prompt, or several. Where spans are filled, `<extra_id_0>` and so on mark them.
      how: "autoregressive", "unrolled", "masked" or "spans"; None is what the last stage trains.
      max_tokens: new tokens at most; None is 64, or where spans are filled the length of the trained targets.
      seed: of the noise.
      show_steps: keeps each state of a diffusion text in `states`.
      **settings: fields of the strategy, such as `temperature=0.8` or `steps=16`.

    Returns:
      A `Continuation` for each prompt: prompt, text, tokens, calls, texts, milliseconds, score, states, steps, spans.

    Raises:
      UserError: for a folder without a run, an empty prompt, or a setting that the strategy does not have.

    Example: `decode(run, ["The Congress"], how="masked", steps=16)`.
    """
    recipe = recipe_of(run)
    with kept_in(recipe.dataset.cache / EXECUTABLES):
        request = decoding.prepare(recipe, texts, how, max_tokens, seed, show_steps, settings)
        found = list(decoding.decode(request, decoding.load(request)[1]))
    return Continuations(found, list(request.notes()))


def recipe_of(run: "Run | Recipe | str | os.PathLike[str]") -> Recipe:
    """The recipe of a run, by the run, the recipe itself or the run's folder."""
    if isinstance(run, Recipe):
        return run
    return (run if isinstance(run, Run) else Run(run)).recipe


def checked(recipe: Any) -> Recipe:
    """The recipe itself; raises UserError for what is none, such as the name of a gin file."""
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, str | Path):
        raise UserError(f"{str(recipe)!r} is no recipe yet: build it with mixlm.load_recipe({str(recipe)!r}).")
    raise UserError(f"A recipe is a mixlm.Recipe, not a value of type {type(recipe).__name__}.")


def _continuation_html(each: decoding.Continuation) -> str:
    text = html.escape(each.text) if each.spans else f"{html.escape(each.prompt)} <b>{html.escape(each.text)}</b>"
    steps = steps_table(each.steps) if each.steps else ""
    return f"<p>{text}<br/><small>{html.escape(each.cost)}</small></p>{steps}"
