"""What an evaluation says to people: what is scored, how much is read, and one table of all figures."""

import shutil
from collections.abc import Mapping

import numpy as np

from mixlm.evaluation.base import SampledMode
from mixlm.evaluation.likelihood import Fused
from mixlm.evaluation.minimal_pairs import Accuracies
from mixlm.evaluation.perplexity import Text, TextFigures
from mixlm.evaluation.run import Prepared
from mixlm.evaluation.tables import pair_rows, table, text_rows

TERMINAL = (110, 24)  # where no terminal says how wide it is


def summary(prepared: Prepared) -> list[str]:
    """The lines that describe what is scored."""
    recipe, scorer = prepared.recipe, prepared.scorer
    text = prepared.text
    lines = [
        f"run      {recipe.folder}, step {prepared.step}, network {prepared.scoring.network} "
        f"({type(scorer.module).__name__})",
        f"text     {int(text.sentences.lengths.sum()):,} tokens in {len(np.unique(text.rows))} validation rows, "
        f"{_bytes_said(text, recipe.tokens.unk)}",
    ]
    if prepared.pairs is not None:
        pairs = sum(len(paradigm.pairs) for paradigm in prepared.paradigms)
        lines.append(f"pairs    {pairs:,} in {len(prepared.paradigms)} paradigms of {prepared.scoring.minimal_pairs}")
        lines.append(f"judged   {prepared.scoring.convention}")
    return lines


def _bytes_said(text: Text, unk: int) -> str:
    covered = text.bytes_of(text.sentences.lengths, unk)
    if covered is None:
        return "of how many bytes is not known"
    size, unknown = (int(part.sum()) for part in covered)
    return f"{size:,} bytes, {unknown / max(size, 1):.2%} of them <unk>"


def explanation(prepared: Prepared) -> list[str]:
    """The summary, and how many rows and tokens the network reads in each mode; nothing is scored."""
    lines = [*summary(prepared), ""]
    for name, mode in prepared.modes.items():
        for_pairs = prepared.pair_modes[name]
        if isinstance(mode, Fused) or isinstance(for_pairs, Fused):
            lines.append(f"{name}: the sum of two of the others")
            continue
        parts = []
        for what, each, sentences in (("text", mode, prepared.text.sentences), ("pairs", for_pairs, prepared.pairs)):
            if sentences is not None:
                counts = prepared.scorer.plan(each, sentences).counts
                parts.append(
                    f"{int(counts.sum()):,} rows ({int((counts * sentences.lengths).sum()):,} tokens) of {what}"
                )
        lines.append(f"{name}: {', '.join(parts)}")
    return lines


def report(
    prepared: Prepared, figures: Mapping[str, TextFigures | None], accuracies: Mapping[str, Accuracies]
) -> list[str]:
    """The lines of one table with a column per mode, as wide as the terminal, and what its rows mean."""
    # A sum of two modes judges pairs and says nothing of the text.
    names = [name for name, figure in figures.items() if accuracies or figure is not None] or list(figures)
    sections = {"text": text_rows({name: figures[name] for name in names})}
    if accuracies:
        sections["pairs: acceptable sentence preferred, %"] = pair_rows(accuracies)
    width = shutil.get_terminal_size(TERMINAL).columns
    return ["", *table(names, sections, width), "", *_notes(prepared, figures)]


def _notes(prepared: Prepared, figures: Mapping[str, TextFigures | None]) -> list[str]:
    kinds = {mode.kind for mode in prepared.modes.values()}
    notes = []
    if "pseudo" in kinds:
        notes.append(
            "pseudo: each token given all others, no likelihood of the text; compare it among such modes only."
        )
    drawn = [name for name, mode in prepared.modes.items() if not isinstance(mode, SampledMode)]
    if any((figure := figures.get(name)) is not None and figure.noise_error is not None for name in drawn):
        notes.append(
            f"sampled: {prepared.scoring.positions} positions of a piece of text, the same in each mode, stand for all"
            " of them; --all scores every one."
        )
    if "bound" in kinds:
        notes.append("bound: at least what the text costs under masked diffusion.")
    if any(isinstance(mode, Fused) for mode in prepared.modes.values()) and prepared.pairs is None:
        notes.append("fused: the sum of two modes, for minimal pairs alone.")
    if prepared.text.sizes is None:
        notes.append("bits per byte: not known, since the data's task does not say which text its tokens cover.")
    if "prefix" in prepared.modes:
        notes.append("prefix: the second half of a row given its first, or a sentence given what its pair begins with.")
    if prepared.pairs is not None:
        notes.append(f"pairs: {prepared.scoring.convention}")
        notes.append("overall: the mean over paradigms, as BLiMP's; intervals resample the pairs of each paradigm.")
    return notes
