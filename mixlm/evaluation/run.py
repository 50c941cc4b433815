"""Scores a trained run in every mode of its network: text, and minimal pairs where they are given."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from mixlm.checkpoints.load import check_held_out, check_networks, check_run, load_params
from mixlm.data.loader.batches import as_batch
from mixlm.data.store.fingerprint_cache import caching_in
from mixlm.errors import UserError
from mixlm.evaluation.base import Mode, NamedMode
from mixlm.evaluation.conventions import Convention
from mixlm.evaluation.drawn import Draw
from mixlm.evaluation.exact_match import ExactMatch
from mixlm.evaluation.folders import FOLDER, LATEST, evaluation_folder, folder_name, link_latest
from mixlm.evaluation.likelihood import Fused
from mixlm.evaluation.minimal_pairs import Accuracies, check_scored, pair_sentences, score_pairs
from mixlm.evaluation.modes import modes_of, select_modes, with_extra
from mixlm.evaluation.pair_files import Paradigm, read_pairs
from mixlm.evaluation.perplexity import Text, TextFigures, pieces_of_documents, pieces_of_rows, text_figures
from mixlm.evaluation.reading import Context
from mixlm.evaluation.scorer import Scorer
from mixlm.evaluation.sentences import Sentences
from mixlm.evaluation.tables import (
    draw,
    pairs_content,
    text_content,
    write_csv,
    write_json,
)
from mixlm.evaluation.watch import Watch
from mixlm.recipe import Recipe
from mixlm.tokens import TokenIds
from mixlm.values import check_whole

Say = Callable[[str], Any]
Modes = Mapping[str, Mode | Fused]


@dataclass(frozen=True)
class Scoring:
    """Settings of an evaluation; `gin/evaluate.gin` binds every field to a macro.

    `minimal_pairs` is a folder of JSONL files, "tfds:NAME" or "made:SEED", of which the first `pairs` of each paradigm
    are taken (None: all); `pair_normalisation`, `context` and `ties` are the `Convention` by which they are judged.
    `modes` are names, as a tuple or with commas (None: all that there are): those of the network and those of
    `extra_modes`, which come from outside of the package. `rows` of the validation text are scored. `positions` bounds
    how often a row of text is read in a mode that masks one position, or span, at a time (None: every one; see
    `evaluation.drawn`); sentences of pairs are always scored whole. `samples` is the number of noise samples of a
    diffusion bound, and `batch_tokens` the size of a batch. The bootstrap draws
    `resamples`. Everything random is a function of `seed`. `exact_match` decodes pairs as well, where it is given.
    Where rows are pairs, `task_examples` of each task's validation split (None: all) are judged by the task's own
    metrics instead (see `evaluation.tasks.run`).
    """

    minimal_pairs: str | None = None
    pairs: int | None = None
    modes: str | tuple[str, ...] | None = None
    rows: int = 64
    positions: int | None = 16
    samples: int = 16
    resamples: int = 1000
    seed: int = 0
    batch_tokens: int = 1024
    network: str = "model"
    extra_modes: tuple[NamedMode, ...] = ()
    pair_normalisation: str = "sum"
    context: str | None = None
    ties: str = "half"
    exact_match: ExactMatch | None = None
    task_examples: int | None = None

    @property
    def convention(self) -> Convention:
        """The convention by which minimal pairs are judged."""
        return Convention(self.pair_normalisation, self.context, self.ties)

    @property
    def draw(self) -> Draw | None:
        """The draw among the positions of the text."""
        return None if self.positions is None else Draw(self.positions, self.seed)

    def __post_init__(self) -> None:
        _ = self.convention, self.draw
        for name, least in (("rows", 1), ("samples", 2), ("resamples", 1), ("seed", 0), ("batch_tokens", 1)):
            check_whole(self, name, least)
        for name in ("pairs", "task_examples"):
            if getattr(self, name) is not None:
                check_whole(self, name, 1)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A loaded run, and everything that is to be scored; `data` is the fingerprint of the data."""

    recipe: Recipe
    scoring: Scoring
    step: int
    scorer: Scorer
    modes: Modes
    pair_modes: Modes
    text: Text
    data: str
    paradigms: Sequence[Paradigm]
    pairs: Sentences | None
    vocabulary: Any = None


def prepare(
    recipe: Recipe,
    scoring: Scoring,
    say: Say = print,
    documents: Callable[[], Iterable[str]] | None = None,
    paradigms: Sequence[Paradigm] = (),
) -> Prepared:
    """Loads everything, cheapest first, so that a mistake is reported before anything is computed.

    The text that is scored is that of `documents`, all of it, or else `scoring.rows` of the validation split; the pairs
    are those of `paradigms`, or else of `scoring.minimal_pairs`.
    """
    modes, pair_modes, own = settle(recipe, scoring)
    paradigms = own or paradigms
    module = recipe.networks[scoring.network]
    # Whether there is a run is known at once; preparing its data may take a while.
    check_run(recipe)
    if documents is None:
        check_held_out(recipe)
    data = recipe.dataset.prepare(say)
    step, params = load_params(recipe, (scoring.network,), data.vocabulary.fingerprint)
    if data.vocabulary.token_ids != recipe.tokens:
        raise UserError(f"The recipe's TOKENS are {recipe.tokens}, and its vocabulary has {data.vocabulary.token_ids}.")
    length = recipe.block_length
    if documents is None:
        rows = min(scoring.rows, data.validation_size(length))
        with caching_in(recipe.dataset.cache / "fingerprints"):
            sizes = data.validation_bytes(length, rows)
        # Read as in training: where its rows are the text cut anywhere, those that are scored are so too.
        batch = as_batch(data.validation_rows(length, rows, before=recipe.before), recipe.before)
        text = pieces_of_rows(batch["tokens"], recipe.tokens, sizes, batch.get("previous"))
    else:
        text = pieces_of_documents(map(data.vocabulary.encode_with_bytes, documents()), length, recipe.before)
    pairs = pair_sentences(paradigms, data.vocabulary.encode) if paradigms else None
    if pairs is not None:
        check_scored(paradigms, pairs, pair_modes, scoring.context)
    return Prepared(
        recipe=recipe,
        scoring=scoring,
        step=step,
        scorer=Scorer(module, params[scoring.network], recipe.partitioning.mesh(), scoring.batch_tokens),
        modes=modes,
        pair_modes=pair_modes,
        text=replace(text, sentences=replace(text.sentences, draw=scoring.draw)),
        data=data.summary.fingerprint,
        paradigms=paradigms,
        pairs=pairs,
        vocabulary=data.vocabulary,
    )


def settle(recipe: Recipe, scoring: Scoring) -> tuple[Modes, Modes, Sequence[Paradigm]]:
    """Modes of the text, modes of the pairs, and the pairs, all of which are known before there is a run.

    Raises UserError for a network, a mode or pairs that there are not.
    """
    check_networks(recipe, (scoring.network,))
    if recipe.dataset.pairs is not None:
        raise UserError(
            "Scoring reads rows of text, and the rows of this recipe's data are pairs of inputs and targets: evaluate "
            "them by their tasks' metrics (mixlm evaluate)."
        )
    module = recipe.networks[scoring.network]
    around = scoring.convention.context_of(recipe.tokens)
    modes, pair_modes = (_modes(module, recipe.tokens, scoring, context) for context in (None, around))
    pairs = () if scoring.minimal_pairs is None else read_pairs(scoring.minimal_pairs, scoring.pairs)
    return modes, pair_modes, pairs


def _modes(module: Any, tokens: TokenIds, scoring: Scoring, context: Context | None) -> Modes:
    """The modes that were asked for, which read sentences in `context`, or each in its own."""
    own = modes_of(module, tokens, scoring.samples, scoring.seed, context)
    found = select_modes(with_extra(own, scoring.extra_modes), scoring.modes)
    if context is not None and (outside := [name for name in found if name not in own]):
        raise UserError(f"CONTEXT is for the network's own modes, and {outside[0]} is not: leave it out of MODES.")
    return found


def score(prepared: Prepared) -> tuple[dict[str, TextFigures | None], dict[str, Accuracies]]:
    """Scores everything: the figures of the text by mode, and the accuracies on minimal pairs, {} without any."""
    with Watch(_to_read(prepared)) as watch:
        return _score(replace(prepared, scorer=replace(prepared.scorer, watch=watch)))


def _to_read(prepared: Prepared) -> int:
    """The tokens that the network reads, a mode that others are made of once."""
    modes: list[Mode | Fused] = [mode for mode in prepared.modes.values() if not isinstance(mode, Fused)]
    parts = [(prepared.text.sentences, modes)]
    if prepared.pairs is not None:
        parts.append((prepared.pairs, list(prepared.pair_modes.values())))
    found: dict[Any, int] = {}
    for sentences, asked in parts:
        for mode in asked:
            read = prepared.scorer.read(mode, sentences)
            found |= {(sentences, part): tokens for part, tokens in read.items()}
    return sum(found.values())


def _score(prepared: Prepared) -> tuple[dict[str, TextFigures | None], dict[str, Accuracies]]:
    scoring, scorer = prepared.scoring, prepared.scorer
    figures = {
        name: text_figures(scorer, mode, prepared.text, prepared.recipe.tokens.unk, name)
        for name, mode in prepared.modes.items()
    }
    if prepared.pairs is None:
        return figures, {}
    found = {
        name: score_pairs(
            scorer, mode, prepared.paradigms, prepared.pairs, name, scoring.resamples, scoring.seed, scoring.convention
        )
        for name, mode in prepared.pair_modes.items()
    }
    return figures, found


def write(prepared: Prepared, figures: Mapping[str, TextFigures | None], accuracies: Mapping[str, Accuracies]) -> str:
    """Writes the figures into a folder of their own in the run's `evaluation/`; returns the line that says where."""
    recipe, scoring = prepared.recipe, prepared.scoring
    name = _folder_name(prepared)
    head = {"recipe": recipe.name, "step": prepared.step, "network": scoring.network, "seed": scoring.seed}
    head |= {"positions": scoring.positions}
    with evaluation_folder(recipe.folder, name) as folder:
        write_json(folder / "text.json", head | {"modes": text_content(figures)})
        if accuracies:
            source = {"source": scoring.minimal_pairs, "convention": asdict(scoring.convention)}
            content = head | source | pairs_content(prepared.paradigms, accuracies)
            write_json(folder / "minimal_pairs.json", content)
            write_csv(folder / "minimal_pairs.csv", prepared.paradigms, accuracies)
            title = f"{recipe.name}, step {prepared.step}: minimal pairs, with 95% intervals"
            draw(accuracies, folder / "minimal_pairs.png", title)
    pairs = ["minimal_pairs.json", "minimal_pairs.csv", "minimal_pairs.png"] if accuracies else []
    reason = link_latest(recipe.folder, name)
    linked = f"{FOLDER}/{LATEST} is a link to it" if reason is None else f"{FOLDER}/{LATEST} is not made ({reason})"
    return f"In {recipe.folder / FOLDER / name}: {', '.join(['text.json', *pairs])}; {linked}."


def _folder_name(prepared: Prepared) -> str:
    scoring, rows = prepared.scoring, len(np.unique(prepared.text.rows))
    # The size of a batch changes no figure, and the modes are given by name.
    others = (
        each.name
        for each in fields(scoring)
        if each.name not in ("batch_tokens", "modes", "exact_match", "task_examples")
    )
    settings = {name: getattr(scoring, name) for name in others}
    # Of pairs what they say counts, as a file may have changed, and not where they lie alone.
    facts = (prepared.data, list(prepared.modes), settings, prepared.recipe.before, list(prepared.paradigms))
    return folder_name(prepared.step, rows, scoring.minimal_pairs, *facts)
