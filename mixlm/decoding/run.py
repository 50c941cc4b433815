"""Prompts continued by a run, for a person to read: the text, what it cost, and how a diffusion text formed."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import jax
import numpy as np

from mixlm.checkpoints.load import restored
from mixlm.decoding.autoregressive import Decoded
from mixlm.decoding.diffusion import most_confident
from mixlm.decoding.select import Way
from mixlm.decoding.strategies import Masked, Spans, Unrolled
from mixlm.decoding.text import forming, spans, text_of, with_fills
from mixlm.errors import UserError
from mixlm.recipe import Recipe
from mixlm.reports.units import INDENT
from mixlm.rng import row_keys
from mixlm.tokens import TokenIds

Say = Callable[[str], None]
MAX_TOKENS = 64  # Ours: a few lines of text.
TEXTS_AT_ONCE = 16  # Ours: more prompts than that are decoded one batch after the other.

# Settings that change nothing, and so need not be mentioned.
_NEUTRAL = {"top_k": 0, "top_p": 1.0, "beams": 1}


@dataclass(frozen=True)
class Request:
    """Which texts to continue, and how."""

    texts: tuple[str, ...]
    way: Way
    decoder: Any
    max_tokens: int | None = None
    seed: int = 0
    show_steps: bool = False

    def length(self, recipe: Recipe) -> int:
        """The most new tokens of a text: for spans the targets that were trained, where nothing else is said."""
        if self.max_tokens is not None:
            return self.max_tokens
        return recipe.lengths.get("targets", MAX_TOKENS) if isinstance(self.decoder, Spans) else MAX_TOKENS


@dataclass(frozen=True)
class Timed:
    """What a batch of texts became, and the milliseconds that it took once it was compiled."""

    found: Decoded
    milliseconds: float


def continuations(recipe: Recipe, request: Request, say: Say, note: Say, explain: bool = False) -> None:
    """Says each prompt with its continuation, network calls and milliseconds; `note` is for remarks.

    `explain` says what would run, and stops. Raises UserError for an empty prompt, before anything is compiled.
    """
    if request.show_steps and not isinstance(request.decoder, Unrolled | Masked):
        raise UserError(f"--show_steps shows how a diffusion text forms, and this is {request.way.how} decoding.")
    vocabulary, ids = recipe.dataset.prepare(note).vocabulary, recipe.tokens
    rows = [vocabulary.encode(text) for text in request.texts]
    for index, row in enumerate(rows):
        if not row:
            raise UserError(f"Prompt {index + 1} has no tokens: {request.texts[index]!r}.")
    network, length = request.way.network, request.length(recipe)
    module = recipe.networks[network]
    # The whole batch, before parameters are read: a prompt that cannot be read says so now.
    request.decoder.read(module, rows, ids)
    if request.way.objective is None:
        note(f"note: no stage of this recipe trains {request.way.how} decoding.")
    for line in _long(recipe, request, rows, length):
        note(line)
    if explain:
        many = "1 prompt" if len(rows) == 1 else f"{len(rows)} prompts"
        say(f"{recipe.folder} would continue {many} by {_settings(request)}, at most {length} tokens.")
        return
    step, nets = restored(recipe, (network,), vocabulary.fingerprint)
    say(f"{recipe.folder}, step {step}: {_settings(request)}")
    remaining = iter(rows)
    for timed, texts in _batches(module, nets[network], request, rows, length, ids):
        for place in range(texts):
            say("")
            for line in _lines(vocabulary, next(remaining), timed, place, texts, request, ids):
                say(line)


def _batches(
    module: Any, params: Any, request: Request, rows: Sequence[Sequence[int]], length: int, ids: TokenIds
) -> Iterator[tuple[Timed, int]]:
    """Decodes a batch at a time; what has not run in its shape yet runs twice, and the second time counts."""
    keys = row_keys(request.seed, 0, len(rows))
    warm = set()
    for start in range(0, len(rows), TEXTS_AT_ONCE):
        part = slice(start, start + TEXTS_AT_ONCE)
        prompt = request.decoder.read(module, rows[part], ids)
        shape = tuple(leaf.shape for leaf in jax.tree.leaves(prompt))
        if shape not in warm:
            jax.block_until_ready(request.decoder(module, params, prompt, keys[part], length, ids))
            warm.add(shape)
        began = time.perf_counter()
        found = jax.block_until_ready(request.decoder(module, params, prompt, keys[part], length, ids))
        yield Timed(found, 1000 * (time.perf_counter() - began)), len(rows[part])


def _long(recipe: Recipe, request: Request, rows: Sequence[Sequence[int]], length: int) -> Iterator[str]:
    """A remark on every prompt that takes the network past the lengths that it was trained on."""
    encoded = isinstance(request.decoder, Spans) and "inputs" in recipe.lengths
    trained = recipe.lengths["inputs"] if encoded else recipe.block_length
    for index, row in enumerate(rows):
        tokens = len(row) + 1 if encoded else len(row) + length
        if tokens > trained:
            what = "has" if encoded else f"and {length} new tokens are"
            yield f"note: prompt {index + 1} {what} {tokens} tokens, and the network was trained on {trained}."


def _settings(request: Request) -> str:
    """The decoder in words, such as `unrolled decoding, steps 10, samples 8, temperature 0.2`."""
    parts = [f"{request.way.how} decoding"]
    for field in fields(request.decoder):
        value = getattr(request.decoder, field.name)
        if value is True:
            parts.append(field.name)
        elif callable(value):
            parts.append(value.__name__.replace("_", " ") + " first" * (value is most_confident))
        elif value is not None and value is not False and value != _NEUTRAL.get(field.name):
            parts.append(f"{field.name.replace('_', ' ')} {value}")
    return ", ".join(parts)


def _lines(
    vocabulary: Any, prompt: Sequence[int], timed: Timed, row: int, texts: int, request: Request, ids: TokenIds
) -> Iterator[str]:
    said = np.asarray(timed.found.tokens[row]).tolist()
    yield "prompt        " + vocabulary.decode(prompt)
    if request.show_steps and timed.found.states is not None:
        for turn, state in enumerate(np.asarray(timed.found.states[row]).tolist()):
            yield f"step {turn:<9}" + forming(vocabulary, state, ids)
    if isinstance(request.decoder, Spans):
        fills = spans(said, ids)
        yield "text          " + vocabulary.decode(with_fills(prompt, fills, ids))
        # What the model says behind sentinels that the prompt does not have answers nothing.
        for number in sorted({ids.first_sentinel - token for token in prompt} & set(range(ids.sentinels))):
            yield f"{INDENT}<extra_id_{number}>  ".ljust(16) + (vocabulary.decode(fills.get(number, [])) or "(nothing)")
    else:
        yield "continuation  " + (vocabulary.decode(text_of(said, ids)) or "(nothing)")
    yield " " * 14 + _cost(timed, row, texts)


def _cost(timed: Timed, row: int, texts: int) -> str:
    calls, each = int(timed.found.calls[row]), timed.milliseconds / texts
    line = f"{calls} network call{'s' if calls > 1 else ''}, {each:.1f} ms"
    if texts > 1:
        line += f" ({timed.milliseconds:.1f} ms for {texts} texts at once)"
    if timed.found.score is not None:
        line += f", score {float(timed.found.score[row]):.3f}"
    return line
