"""Exact match: supervised pairs are decoded, and what is said is compared with the targets, token by token."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixlm.checkpoints.load import load_params
from mixlm.data.loader.pairs import pair
from mixlm.decoding.autoregressive import PROMPT_MULTIPLE, Decoded
from mixlm.decoding.select import Selection, select
from mixlm.decoding.strategies import Autoregressive, Strategy
from mixlm.decoding.text import until_eos
from mixlm.errors import UserError
from mixlm.evaluation.folders import FOLDER, evaluation_folder, folder_name
from mixlm.evaluation.tables import write, write_json
from mixlm.evaluation.tasks.decoded import metrics_of
from mixlm.perf.compilation_cache import EXECUTABLES, kept_in
from mixlm.recipe import Recipe
from mixlm.rng import row_keys
from mixlm.tokens import TokenIds
from mixlm.values import check_whole

PREDICTIONS = "predictions.jsonl"
REPEATS = 3  # Ours: of a timed decoding the fastest counts, since what else runs can only slow it.


@dataclass(frozen=True)
class Decoding:
    """A decoding as text, `"unrolled steps=5 samples=8"`: a strategy's name, and settings of it; "" is as trained."""

    text: str
    how: str | None
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, text: str) -> "Decoding":
        """The decoding that a text names; UserError for what is no NAME=NUMBER behind the name."""
        words = text.split()
        how = words.pop(0) if words and "=" not in words[0] else None
        return cls(text, how, dict(_setting(text, word) for word in words))

    def selection(self, recipe: Recipe) -> Selection:
        """The strategy by its name, by default that of the last stage, and the network that it runs."""
        return select(recipe, self.how)

    def strategy(self, recipe: Recipe) -> Strategy:
        """The strategy as trained and as the settings say; it reads inputs as rows have them, with no EOS added."""
        strategy = self.selection(recipe).strategy(self.settings)
        return replace(strategy, ended=True) if isinstance(strategy, Autoregressive) else strategy

    @property
    def label(self) -> str:
        """The text as part of a column's name."""
        return "_".join(self.text.replace("=", " ").split()) or "as_trained"


def _setting(text: str, word: str) -> tuple[str, Any]:
    """The name and the value of a setting, a number where it is one."""
    name, equals, value = word.partition("=")
    if not (equals and name.isidentifier() and value):
        raise UserError(f"DECODINGS: {word!r} in {text!r} is no NAME=VALUE, such as 'unrolled steps=10 samples=8'.")
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return name, kind(value)
    return name, value


@dataclass(frozen=True)
class Pair:
    """A validation pair in tokens, EOS not among the targets: its part of the data, and its number there."""

    part: str
    inputs: tuple[int, ...]
    targets: tuple[int, ...]
    number: int = 0


@dataclass(frozen=True)
class ExactMatch:
    """The share of validation pairs whose decoded text is their target, for each of `decodings` (see `Decoding`).

    The first `pairs` of each part of the data that the last rates read, in batches of `batch`. `lengths` are numbers of
    new tokens for which each decoding is timed as well, with `timed_rows` prompts at once and an EOS that never comes.
    Calls with a run's recipe; writes `predictions.jsonl` and `exact_match.json` into an evaluation folder of the run.
    """

    decodings: tuple[str, ...] = ("",)
    pairs: int = 128
    batch: int = 64
    lengths: tuple[int, ...] = ()
    timed_rows: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("pairs", "batch", "timed_rows"):
            check_whole(self, name, 1)
        check_whole(self, "seed", 0)
        if not self.decodings:
            raise UserError("DECODINGS names no decoding: give one, such as ('autoregressive',).")
        for text in self.decodings:
            Decoding.of(text)

    def __call__(self, recipe: Recipe, say: Callable[[str], Any] = lambda line: None) -> dict[str, float]:
        """Figures by DECODING/FIGURE: exact (and by part), TASK/METRIC, calls, rows_times_calls, milliseconds."""
        if recipe.dataset.pairs is None:
            raise UserError("EXACT_MATCH decodes pairs of inputs and targets, and the rows of this recipe are text.")
        asked = [Decoding.of(text) for text in self.decodings]
        strategies = [each.strategy(recipe) for each in asked]
        network = asked[0].selection(recipe).network
        data = recipe.dataset.prepare(say)
        step, params = load_params(recipe, (network,), data.vocabulary.fingerprint)
        found = _pairs(recipe, data, self.pairs)
        module = recipe.networks[network]
        lines: list[dict[str, Any]] = []
        figures: dict[str, float] = {}
        with kept_in(recipe.dataset.cache / EXECUTABLES):
            for each, strategy in zip(asked, strategies):
                decoder = _Decoder(module, params[network], strategy, recipe.tokens, self.batch, self.seed)
                said, own = decoder.answers(found, recipe.lengths["targets"])
                own |= metrics_of(recipe, data.vocabulary, [(pair.part, pair.number) for pair in found], said)
                own |= _shares(found, said) | decoder.times(found, self.lengths, self.timed_rows)
                figures |= {f"{each.label}/{name}": value for name, value in own.items()}
                lines += _lines(each.label, found, said, data.vocabulary)
        self._write(recipe, step, data.summary.fingerprint, figures, lines)
        return figures

    def _write(
        self, recipe: Recipe, step: int, data: str, figures: Mapping[str, float], lines: Sequence[Mapping[str, Any]]
    ) -> None:
        name = folder_name(step, self.pairs, "exact match", data, self)
        with evaluation_folder(recipe.folder, name) as folder:
            write_json(folder / "exact_match.json", {"step": step, "settings": asdict(self), "figures": dict(figures)})
            write(folder / PREDICTIONS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

    def report(self, figures: Mapping[str, float]) -> Iterator[str]:
        """The figures as lines of a table, a decoding a line."""
        labels = [Decoding.of(text).label for text in self.decodings]
        width = max(map(len, labels))
        yield "decoding".ljust(width) + "   exact %   calls   rows x calls   ms a pair"
        for label in labels:
            exact, calls, read, spent = (
                figures[f"{label}/{name}"] for name in ("exact", "calls", "rows_times_calls", "milliseconds")
            )
            yield f"{label.ljust(width)}{100 * exact:10.1f}{calls:8.1f}{read:15.1f}{spent:12.2f}"
        yield f"What was said beside the targets: {PREDICTIONS} in the run's {FOLDER}/."


def _pairs(recipe: Recipe, data: Any, count: int) -> list[Pair]:
    """The first pairs of the validation split of each part that the last rates read."""
    lengths, found = recipe.lengths, []
    weights = data.shares[-1].weights if getattr(data, "shares", ()) else (1,) * len(data.parts)
    for part, weight in zip(data.parts, weights):
        split = part.store.split("validation")
        for number in range(min(count, split.num_documents) if weight else 0):
            row = pair(split, number, lengths).tolist()
            middle = lengths["inputs"]
            inputs = [token for token in row[:middle] if token != recipe.tokens.pad]
            targets = until_eos(row[middle:], recipe.tokens)
            if inputs:
                found.append(Pair(part.name, tuple(inputs), tuple(targets), number))
    return found


@dataclass(frozen=True)
class _Decoder:
    """One decoding of one network, in batches of equal shapes, so that each length of prompts compiles once."""

    module: Any
    params: Any
    strategy: Strategy
    ids: TokenIds
    batch: int
    seed: int

    def answers(self, pairs: Sequence[Pair], length: int) -> tuple[list[list[int]], dict[str, float]]:
        """The text decoded for each pair, up to EOS, and mean calls and milliseconds of a pair."""
        said: list[list[int]] = [[] for _ in pairs]
        calls, spent, keys = 0, 0.0, row_keys(self.seed, 0, len(pairs))
        compiled: set[tuple[int, ...]] = set()
        for group in _batches(pairs, self.batch):
            filled = np.resize(group, self.batch)  # the last batch of a length repeats its rows
            prompt = self.strategy.read(self.module, [pairs[place].inputs for place in filled], self.ids)
            # Only the first batch of a length compiles, and is decoded twice so that its time leaves that out.
            shape = prompt.decoder_input_tokens.shape
            found, seconds = self._timed(prompt, keys[filled], length, int(shape not in compiled))
            compiled.add(shape)
            for row, place in enumerate(group):
                said[place] = until_eos(np.asarray(found.tokens[row]).tolist(), self.ids)
                calls += int(found.calls[row])
            spent += seconds * len(group) / self.batch
        return said, {
            "calls": calls / len(pairs),
            "rows_times_calls": calls * self.strategy.texts / len(pairs),
            "milliseconds": 1000 * spent / len(pairs),
        }

    def times(self, pairs: Sequence[Pair], lengths: Sequence[int], rows: int) -> dict[str, float]:
        """Milliseconds a text for so many new tokens, none of which ends it."""
        figures: dict[str, float] = {}
        chosen = [pairs[place % len(pairs)].inputs for place in range(rows)]
        # No text holds the mask, so that none is ended by it.
        ids = replace(self.ids, eos=self.ids.mask)
        prompt = self.strategy.read(self.module, chosen, ids)
        for length in lengths:
            found, seconds = self._timed(prompt, row_keys(self.seed, 0, rows), length, REPEATS, ids)
            figures[f"milliseconds/{length}"] = 1000 * seconds / rows
            figures[f"calls/{length}"] = float(np.mean(np.asarray(found.calls)))
        return figures

    def _timed(
        self, prompt: Any, keys: Any, length: int, repeats: int, ids: TokenIds | None = None
    ) -> tuple[Decoded, float]:
        """Decodes, and then `repeats` times more; the seconds are the shortest of these, or of the only one."""
        spent = []
        for _ in range(repeats + 1):
            began = time.perf_counter()
            found = jax.block_until_ready(
                self.strategy(self.module, self.params, prompt, jnp.asarray(keys), length, ids or self.ids)
            )
            spent.append(time.perf_counter() - began)
        return found, min(spent[1:] or spent)


def _batches(pairs: Sequence[Pair], size: int) -> Iterator[np.ndarray]:
    """Places of pairs whose prompts are padded to the same length, in batches of at most `size`."""
    lengths = np.asarray([-(-(len(each.inputs) + 1) // PROMPT_MULTIPLE) for each in pairs])
    for length in np.unique(lengths):
        places = np.flatnonzero(lengths == length)
        yield from (places[start : start + size] for start in range(0, len(places), size))


def _shares(pairs: Sequence[Pair], said: Sequence[Sequence[int]]) -> dict[str, float]:
    right = np.asarray([list(each.targets) == list(answer) for each, answer in zip(pairs, said)])
    parts = np.asarray([each.part for each in pairs])
    by_part = {f"exact/{part}": float(right[parts == part].mean()) for part in np.unique(parts).tolist()}
    return {"exact": float(right.mean())} | (by_part if len(by_part) > 1 else {})


def _lines(
    decoding: str, pairs: Sequence[Pair], said: Sequence[Sequence[int]], vocabulary: Any
) -> Iterator[dict[str, Any]]:
    for each, answer in zip(pairs, said):
        texts = {"inputs": each.inputs, "targets": each.targets, "prediction": answer}
        yield (
            {"decoding": decoding, "part": each.part}
            | {name: vocabulary.decode(tokens) for name, tokens in texts.items()}
            | {"exact": list(each.targets) == list(answer)}
        )
