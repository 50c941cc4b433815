"""Texts that continue the harness's prompts, by the decoding that belongs to a scoring mode."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from mixlm.decoding.autoregressive import PROMPT_MULTIPLE
from mixlm.decoding.select import Selection, select, trained_selections
from mixlm.decoding.strategies import Spans, Strategy
from mixlm.decoding.text import spans, until_eos
from mixlm.errors import UserError
from mixlm.network import EncoderDecoderNetwork
from mixlm.parallel.mesh import batch_sharding
from mixlm.recipe import Recipe
from mixlm.reports.metrics import progress_bar
from mixlm.rng import row_keys

LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens")  # the harness's names of the number of new tokens
DRAWN = ("temperature", "top_k", "top_p")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Prompt:
    """A prompt in tokens, where it stands among all of them, and the strings that end its text."""

    place: int
    row: tuple[int, ...]
    stops: tuple[str, ...]


@dataclass(frozen=True)
class Generator:
    """A decoder of prompts in batches by length, one executable a bucket, its rows shared by the devices of the mesh.

    `mode` is that of scoring, and `how` a decoding by name in place of the mode's own. Of a prompt that leaves no room
    for `new_tokens` within `max_length` the end is read. A batch has about `batch_tokens`, prompts and new tokens.
    """

    recipe: Recipe
    network: str
    params: Any
    vocabulary: Any
    mode: str
    how: str | None
    max_length: int
    new_tokens: int
    batch_tokens: int
    seed: int

    def __call__(self, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """The text for each (prompt, settings of the harness), all prompts of the same settings at once."""
        said = [""] * len(requests)
        groups: dict[tuple[Strategy, int], list[_Prompt]] = {}
        for place, (text, given) in enumerate(requests):
            strategy, length, stops = self._settings(dict(given))
            prompt = _Prompt(place, self._row(text, strategy, length), stops)
            groups.setdefault((strategy, length), []).append(prompt)
        for stop in sorted({stop for group in groups.values() for each in group for stop in each.stops}):
            if stop.strip() not in self.vocabulary.decode(self.vocabulary.encode(stop)) or not stop.strip():
                _log.warning("The stop string %r is none that this vocabulary writes: texts end without it.", stop)
        keys = row_keys(self.seed, 0, len(requests))
        with progress_bar(total=len(requests), desc=f"{self.mode}, generated", unit=" texts", leave=False) as bar:
            for (strategy, length), group in groups.items():
                for batch in self._batches(group, length):
                    for prompt, tokens in zip(batch, self._decoded(strategy, length, batch, keys)):
                        said[prompt.place] = self._text(tokens, strategy, prompt.stops)
                    bar.update(len(batch))
        return said

    def _settings(self, given: dict[str, Any]) -> tuple[Strategy, int, tuple[str, ...]]:
        """The strategy, the number of new tokens and the stop strings; UserError for a setting without effect."""
        until = given.pop("until", None) or ()
        length = [given.pop(name) for name in LENGTHS if name in given]
        drawn = given.pop("do_sample", float(given.get("temperature") or 0) > 0)
        if not drawn:
            given = {name: value for name, value in given.items() if name not in DRAWN}
        elif "temperature" not in given:
            given["temperature"] = 1.0
        selection, own = self._selection()
        strategy = selection.strategy({**own, **given})
        return strategy, length[0] if length else self.new_tokens, (until,) if isinstance(until, str) else tuple(until)

    def _selection(self) -> tuple[Selection, dict[str, Any]]:
        """The decoding of the mode, and the settings that follow from it."""
        if self.how is not None:
            return select(self.recipe, self.how), {}
        if isinstance(self.recipe.networks[self.network], EncoderDecoderNetwork):
            return Selection("spans", self.network), {}
        kind, _, rest = self.mode.partition("_")
        if kind in ("pll", "diffusion"):
            shifted = rest.startswith("shifted")
            for each in trained_selections(self.recipe):
                if each.network == self.network and each.as_trained.get("shifted") is shifted:
                    return each, {}
            return Selection("masked", self.network, False, {"shifted": shifted}), {}
        chosen = select(self.recipe, "autoregressive")
        return chosen, {"prefix": True} if kind == "prefix" and not chosen.as_trained.get("encoded") else {}

    def _row(self, text: str, strategy: Strategy, length: int) -> tuple[int, ...]:
        """The prompt's last tokens; where spans are filled, a sentinel stands for what follows."""
        tokens = self.vocabulary.encode(text)
        if isinstance(strategy, Spans):
            return (*tokens[-self.max_length :], self.recipe.tokens.first_sentinel)
        if length >= self.max_length:
            raise UserError(f"{length} new tokens leave no room for a prompt within {self.max_length}: lower them.")
        return tuple(tokens[-(self.max_length - length) :])

    def _batches(self, prompts: Sequence[_Prompt], length: int) -> Iterator[list[_Prompt]]:
        """Prompts that are padded to the same length."""
        padded = np.asarray([-(-(len(each.row) + 1) // PROMPT_MULTIPLE) for each in prompts])
        for multiple in np.unique(padded):
            rows = max(self.batch_tokens // (int(multiple) * PROMPT_MULTIPLE + length), 1)
            members = [each for each, size in zip(prompts, padded) if size == multiple]
            yield from (members[start : start + rows] for start in range(0, len(members), rows))

    def _decoded(self, strategy: Strategy, length: int, batch: Sequence[_Prompt], keys: Any) -> list[list[int]]:
        module, ids, mesh = self.recipe.networks[self.network], self.recipe.tokens, self.recipe.partitioning.mesh()
        # A power of two, so that few sizes are compiled, and a multiple of the devices; rows are repeated.
        parts = mesh.shape["data"] * mesh.shape["fsdp"]
        size = -(-(1 << (len(batch) - 1).bit_length()) // parts) * parts
        filled = np.resize(np.arange(len(batch)), size)
        put = partial(jax.device_put, device=batch_sharding(mesh))
        prompt = jax.tree.map(put, strategy.read(module, [batch[place].row for place in filled], ids))
        own = put(keys[np.asarray([batch[place].place for place in filled])])
        found = strategy(module, self.params, prompt, own, length, ids)
        return np.asarray(found.tokens)[: len(batch)].tolist()

    def _text(self, tokens: list[int], strategy: Strategy, stops: Sequence[str]) -> str:
        ids = self.recipe.tokens
        new = spans(tokens, ids).get(0, []) if isinstance(strategy, Spans) else until_eos(tokens, ids)
        text = self.vocabulary.decode(new)
        return text[: min((text.find(stop) for stop in stops if stop and stop in text), default=len(text))]
