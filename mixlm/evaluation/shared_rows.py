"""Rows that both sentences of a pair share: masked wherever they differ, they read the same, and are read once."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mixlm.evaluation.base import Mode, copies_of
from mixlm.evaluation.buckets import BUCKET
from mixlm.evaluation.drawn import every
from mixlm.evaluation.reading import Rows
from mixlm.evaluation.sentences import Sentences, draw_of
from mixlm.network import Net

AT_ONCE = 2**14  # Ours: rows whose masks are made at once; their numbers and masks are a few MB.


@runtime_checkable
class MaskingMode(Mode, Protocol):
    """A mode that reads all tokens of a row but the masked ones; which these are its tokens do not decide."""

    def hidden_tokens(self, rows: Rows) -> Bool[Array, "B L"]:
        """Mask of the tokens that the network does not read."""
        ...


@dataclass(frozen=True, eq=False)
class Plan:
    """The rows that a network reads: how many of each sentence, and which.

    `places` are theirs among all rows that count for a score. `twin` is, for each of those, the row that is read in its
    place, -1 where it is read itself; None where no row is shared.
    """

    counts: Int[np.ndarray, " N"]
    numbers: Int[np.ndarray, " R"]
    places: Int[np.ndarray, " R"]
    twin: Int[np.ndarray, " A"] | None = None


def plan_of(mode: Mode, sentences: Sentences) -> Plan:
    """The rows to read: all of them, those drawn, or of two that read the same the first."""
    copies, draw = copies_of(mode, sentences.lengths, sentences.prefixes), draw_of(mode, sentences)
    if draw is not None:
        numbers = draw.numbers(copies)
        return Plan(draw.counts(copies), numbers, np.arange(len(numbers)))
    numbers = every(copies)
    if sentences.twins is not None and sentences.words is None and isinstance(mode, MaskingMode):
        twin = _twins(mode, sentences, copies, numbers)
        read = np.flatnonzero(twin < 0)
        if len(read) < len(twin):
            owner = np.repeat(np.arange(len(copies)), copies)
            return Plan(np.bincount(owner[read], minlength=len(copies)), numbers[read], read, twin)
    return Plan(copies, numbers, np.arange(len(numbers)))


def _twins(
    mode: MaskingMode, sentences: Sentences, copies: Int[np.ndarray, " N"], numbers: Int[np.ndarray, " R"]
) -> Int[np.ndarray, " R"]:
    """For each row of a sentence the row of its twin, an earlier sentence, that reads the same; else -1."""
    tokens, twins = sentences.tokens, sentences.twins
    assert twins is not None
    owner, first = np.repeat(np.arange(len(copies)), copies), np.cumsum(copies) - copies
    found = np.full(len(owner), -1)
    later = np.flatnonzero((twins[owner] >= 0) & (twins[owner] < owner))
    longest = -(-max(map(len, tokens), default=0) // BUCKET) * BUCKET
    columns = (sentences.lengths, sentences.prefixes, None, sentences.noise)
    for start in range(0, len(later), AT_ONCE):
        part = later[start : start + AT_ONCE]
        size = min(AT_ONCE, 1 << (len(later) - 1).bit_length())
        sentence = owner[part]
        given = (numbers[part] if column is None else column[sentence] for column in columns)
        padded = (jnp.asarray(np.pad(each, (0, size - len(part))).astype(np.int32)) for each in given)
        rows = Rows(jnp.asarray(np.zeros((size, longest), np.int32)), *padded)
        hidden = np.asarray(_hidden(mode, rows))[: len(part)]
        differs = np.zeros((len(part), longest), bool)
        for row, one in enumerate(sentence.tolist()):
            differs[row, : len(tokens[one])] = np.not_equal(tokens[one], tokens[twins[one]])
        same = ~(differs & ~hidden).any(axis=1)
        found[part[same]] = first[twins[sentence[same]]] + numbers[part[same]]
    return found


@partial(jax.jit, static_argnums=0)
def _hidden(mode: MaskingMode, rows: Rows) -> Bool[Array, "B L"]:
    return mode.hidden_tokens(rows)


class _ReadOnce:
    """A network that reads the first example that it is given: whatever is asked next gets the same hidden states."""

    def __init__(self, net: Net) -> None:
        self._net, self.logits = net, net.logits
        self._states: Any = None

    def hidden(self, example: Any) -> Any:
        """The hidden states of the first example."""
        if self._states is None:
            self._states = self._net.hidden(example)
        return self._states


@partial(jax.jit, static_argnums=(0, 1))
def scores_of_both(module: Any, mode: Mode, params: Any, rows: Rows) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """What each row adds to its sentence's score, and what it would add to that of its twin, the `others`."""
    net = _ReadOnce(Net(module, params))
    assert rows.others is not None
    return mode(net, rows), mode(net, replace(rows, tokens=rows.others))
