"""Continues prompts with the network of a trained run, as values: text, tokens, network calls, time and score."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

import jax
import numpy as np
from jaxtyping import Array, Key

from mixlm.checkpoints.load import load_params
from mixlm.data.loader.pairs import inputs_end_with
from mixlm.decoding.autoregressive import Decoded
from mixlm.decoding.memory import check_length
from mixlm.decoding.select import Selection, select
from mixlm.decoding.strategies import Autoregressive, Masked, Spans, Strategy, Unrolled
from mixlm.decoding.text import fill_prompt, partial_text, spans, token_texts, until_eos
from mixlm.errors import UserError
from mixlm.files import check_text
from mixlm.recipe import Recipe
from mixlm.reports.examples import NOTHING
from mixlm.reports.table import fixed
from mixlm.rng import row_keys
from mixlm.tokens import TokenIds

Say = Callable[[str], None]
MAX_TOKENS = 64  # Ours: a few lines of text.
BATCH_SIZE = 16  # Ours: more prompts than that are decoded in several batches.

# Settings that change nothing at these values, and so are not mentioned.
_NEUTRAL = {"top_k": 0, "top_p": 1.0, "beams": 1}
_IN_WORDS = {
    "confidence": "most confident first",
    "start": "prompts begin with BOS",
    "ended": "prompts as the data have inputs",
}


@dataclass(frozen=True)
class Continuation:
    """One prompt, continued.

    Attributes:
      prompt: the prompt, as its tokens decode.
      text: the new text up to EOS; where spans are filled, the prompt with the fills in place of its sentinels.
      tokens: the new token ids as decoded, EOS and padding included.
      calls: network calls that this prompt took, one after the other.
      texts: how many texts for this prompt each call read: the samples, or the beams.
      milliseconds: its share of its batch's time, without compilation.
      batch: how many prompts were decoded at once.
      score: what a beam search, or a choice among samples, maximises; None for other strategies.
      states: with `show_steps`, a diffusion text before the first step and after each, masks as `_`.
      steps: the same as the text of every token, padding as `\u00b7`; a notebook shows them as a table.
      spans: the fill of each sentinel of the prompt, by the sentinel's number; empty for other strategies.
    """

    prompt: str
    text: str
    tokens: tuple[int, ...]
    calls: int
    milliseconds: float
    batch: int = 1
    texts: int = 1
    score: float | None = None
    states: tuple[str, ...] = ()
    steps: tuple[tuple[str, ...], ...] = ()
    spans: Mapping[int, str] = field(default_factory=dict)

    @property
    def cost(self) -> str:
        """Network calls, the texts that they read, milliseconds and score, in words."""
        calls = f"{self.calls} network call{'s' if self.calls > 1 else ''}"
        if self.texts > 1:
            calls += f" of {self.texts} texts each ({self.calls * self.texts} texts read)"
        line = f"{calls}, {self.milliseconds:.1f} ms"
        if self.batch > 1:
            line += f" ({self.milliseconds * self.batch:.1f} ms for {self.batch} texts at once)"
        return line if self.score is None else f"{line}, score {fixed(self.score, 3)}"

    def __str__(self) -> str:
        lines = ["prompt        " + self.prompt]
        lines += [f"step {turn:<9}{state}" for turn, state in enumerate(self.states)]
        if self.spans:
            lines.append("text          " + self.text)
            lines += [f"  <extra_id_{number}>  ".ljust(16) + (fill or NOTHING) for number, fill in self.spans.items()]
        else:
            lines.append("continuation  " + (self.text or NOTHING))
        return "\n".join([*lines, " " * 14 + self.cost])


@dataclass(frozen=True, eq=False)
class Request:
    """Prompts in tokens, and how to continue them: checked, with nothing compiled yet."""

    recipe: Recipe
    vocabulary: Any
    rows: tuple[list[int], ...]
    selection: Selection
    strategy: Strategy
    length: int
    seed: int
    show_steps: bool

    @property
    def settings(self) -> str:
        """The strategy in words, such as `unrolled decoding, steps 10, samples 8, temperature 0.2`."""
        parts = [f"{self.selection.how} decoding"]
        for each in fields(cast(Any, self.strategy)):
            value = getattr(self.strategy, each.name)
            if value is True:
                parts.append(_IN_WORDS.get(each.name, each.name))
            elif isinstance(value, str):
                parts.append(_IN_WORDS.get(value, value))
            elif value is not None and value is not False and value != _NEUTRAL.get(each.name):
                parts.append(f"{each.name.replace('_', ' ')} {value}")
        return ", ".join(parts)

    def notes(self) -> Iterator[str]:
        """Remarks: a strategy that the recipe does not train, prompts beyond the lengths that it trains."""
        if not self.selection.trained:
            yield f"note: no stage of this recipe trains {self.selection.how} decoding."
        encoded = isinstance(self.strategy, Spans) and "inputs" in self.recipe.lengths
        trained = self.recipe.lengths["inputs"] if encoded else self.recipe.block_length
        for index, row in enumerate(self.rows):
            tokens = len(row) + 1 if encoded else len(row) + self.length
            if tokens > trained:
                what = "has" if encoded else f"and {self.length} new tokens are"
                yield f"note: prompt {index + 1} {what} {tokens} tokens, and the network was trained on {trained}."


def decode_texts(
    recipe: Recipe,
    texts: Sequence[str],
    how: str | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
    show_steps: bool = False,
    **settings: Any,
) -> list[Continuation]:
    """Continues texts with the run in the recipe's folder.

    Args:
      recipe: that of the run; MODEL_DIR names the folder, and may name a step.
      texts: the prompts. Where spans are filled, `<extra_id_0>` and so on mark them.
      how: a strategy by name, one of `decoding.strategies.STRATEGIES`; None is the one that the last stage trains.
      max_tokens: new tokens at most; None is 64, or where spans are filled the length of the trained targets.
      seed: of the noise. A prompt's noise is a function of the seed and its index.
      show_steps: fills `states`, for diffusion.
      **settings: fields of the strategy, such as `temperature=0.8`; the rest is as the objective was trained.

    Returns:
      A `Continuation` for each text, in order.

    Raises:
      UserError: for a folder without a run, an empty prompt, or a setting that the strategy does not have.
    """
    request = prepare(recipe, texts, how, max_tokens, seed, show_steps, settings)
    return list(decode(request, load(request)[1]))


def prepare(
    recipe: Recipe,
    texts: Sequence[str],
    how: str | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
    show_steps: bool = False,
    settings: Mapping[str, Any] | None = None,
    note: Say = lambda line: None,
) -> Request:
    """Checks and tokenises what `decode_texts` takes; `note` is told how the data are prepared."""
    if max_tokens is not None and max_tokens < 1:
        raise UserError(f"max_tokens must be at least 1, got {max_tokens}.")
    if not 0 <= seed < 2**31:
        raise UserError(f"The seed must be from 0 to 2^31 - 1, got {seed}.")
    texts = [texts] if isinstance(texts, str) else texts
    for index, text in enumerate(texts):
        check_text(text, f"Prompt {index + 1}")
    selection = select(recipe, how)
    strategy = selection.strategy(settings or {})
    if show_steps and not isinstance(strategy, Unrolled | Masked):
        raise UserError(f"show_steps shows how a diffusion text forms, and this is {selection.how} decoding.")
    data: Any = recipe.dataset.prepare(note)
    vocabulary = data.vocabulary
    # `<extra_id_0>` marks a span where spans are filled and in a pair's inputs; elsewhere it is text, as in the corpus.
    marked = isinstance(strategy, Spans) or recipe.dataset.pairs is not None
    encode = vocabulary.encode_with_sentinels if marked else vocabulary.encode
    rows = tuple(map(encode, texts))
    for index, row in enumerate(rows):
        if not row:
            raise UserError(f"Prompt {index + 1} has no tokens: {texts[index]!r}.")
    if recipe.dataset.pairs is not None and not isinstance(strategy, Spans):
        strategy, rows = _as_inputs(strategy, rows, data, recipe.tokens)
    length = recipe.lengths.get("targets", MAX_TOKENS) if isinstance(strategy, Spans) else MAX_TOKENS
    length = max_tokens or length
    if rows:
        # All prompts, before parameters are read: one that the strategy cannot read is an error now.
        module = recipe.networks[selection.network]
        strategy.read(module, rows, recipe.tokens)
        longest = strategy.read(module, sorted(rows, key=len)[-BATCH_SIZE:], recipe.tokens)
        check_length(module, strategy, longest, length, recipe.tokens)
    return Request(recipe, vocabulary, rows, selection, strategy, length, seed, show_steps)


def _as_inputs(
    strategy: Strategy, rows: tuple[list[int], ...], data: Any, ids: TokenIds
) -> tuple[Strategy, tuple[list[int], ...]]:
    """The strategy, and prompts as the data's pairs have their inputs: with EOS behind them where those end with it."""
    if inputs_end_with((part.store.split("train") for part in data.parts), ids.eos):
        rows = tuple([*row, ids.eos] for row in rows)
    return (replace(strategy, ended=True) if isinstance(strategy, Autoregressive) else strategy), rows


def load(request: Request) -> tuple[int, Any]:
    """Returns (step, parameters of the network) of the checkpoint that the recipe's MODEL_DIR names."""
    network = request.selection.network
    step, params = load_params(request.recipe, (network,), request.vocabulary.fingerprint)
    return step, params[network]


def decode(request: Request, params: Any) -> Iterator[Continuation]:
    """Decodes a batch of prompts at a time; yields the continuations in the prompts' order."""
    keys = row_keys(request.seed, 0, len(request.rows))
    compiled: set[tuple[tuple[int, ...], ...]] = set()
    for start in range(0, len(request.rows), BATCH_SIZE):
        part = slice(start, start + BATCH_SIZE)
        rows = request.rows[part]
        found, milliseconds = _timed(request, params, rows, keys[part], compiled)
        for row, prompt in enumerate(rows):
            yield _continuation(request, prompt, found, row, milliseconds / len(rows), len(rows))


def _timed(
    request: Request, params: Any, rows: Sequence[list[int]], keys: Key[Array, " B"], compiled: set[Any]
) -> tuple[Decoded, float]:
    """Decodes one batch, twice where its shape is new, so that the milliseconds leave compilation out."""
    module, ids = request.recipe.networks[request.selection.network], request.recipe.tokens
    prompt = request.strategy.read(module, rows, ids)

    def run() -> Decoded:
        return jax.block_until_ready(request.strategy(module, params, prompt, keys, request.length, ids))

    shape = tuple(leaf.shape for leaf in jax.tree.leaves(prompt))
    if shape not in compiled:
        run()
        compiled.add(shape)
    began = time.perf_counter()
    found = run()
    return found, 1000 * (time.perf_counter() - began)


def _continuation(
    request: Request, prompt: list[int], found: Decoded, row: int, milliseconds: float, batch: int
) -> Continuation:
    vocabulary, ids = request.vocabulary, request.recipe.tokens
    tokens = np.asarray(found.tokens[row]).tolist()
    states: list[list[int]] = []
    if request.show_steps and found.states is not None:
        states = np.asarray(found.states[row]).tolist()
    fills: dict[int, list[int]] = {}
    if isinstance(request.strategy, Spans):
        fills = spans(tokens, ids)
        text = vocabulary.decode(fill_prompt(prompt, fills, ids))
        # A fill of a sentinel that the prompt does not have answers nothing.
        asked = sorted({ids.first_sentinel - token for token in prompt} & set(range(ids.sentinels)))
        fills = {number: fills.get(number, []) for number in asked}
    else:
        text = vocabulary.decode(until_eos(tokens, ids))
    return Continuation(
        prompt=vocabulary.decode(until_eos(prompt, ids)),
        text=text,
        tokens=tuple(tokens),
        calls=int(found.calls[row]),
        milliseconds=milliseconds,
        batch=batch,
        texts=request.strategy.texts,
        score=None if found.score is None else float(found.score[row]),
        states=tuple(partial_text(vocabulary, state, ids) for state in states),
        steps=tuple(tuple(token_texts(vocabulary, state, ids)) for state in states),
        spans={number: vocabulary.decode(fill) for number, fill in fills.items()},
    )
