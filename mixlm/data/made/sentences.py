"""Sentences of the made language as trees that know their subject: agreement goes by the head, whatever lies between.

S  -> NP VP                    NP -> D (A) N | NP P NP | NP that VP | NP that NP V
VP -> V | V NP | V reflexive | is A, each with an adverb or without
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from mixlm.data.made.lexicon import (
    ADJECTIVES,
    ADVERBS,
    ANIMATE,
    DETERMINERS,
    INTRANSITIVE,
    NEUTRAL,
    PREPOSITIONS,
    REFLEXIVE,
    STATIVE,
    THINGS,
    TRANSITIVE,
    Noun,
    verb,
    weights,
)

T = TypeVar("T")
HELD_OUT = 8  # Ours: one in eight sentences by a hash of its words is in no training text, and pairs are made of those.
PLURAL = 0.4  # Ours: plurals are the rarer number in English text, too.


@dataclass(frozen=True)
class Phrase:
    """A noun phrase: its words, its head noun with its number (0 singular, 1 plural)."""

    words: tuple[str, ...]
    head: Noun
    number: int


@dataclass(frozen=True)
class Sentence:
    """A subject and what is said of it; `verb` is the stem of the main verb."""

    subject: Phrase
    verb: str
    rest: tuple[str, ...] = ()
    anaphor: bool = False
    adverb: str = ""
    words: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", self.spoken(self.subject.number))

    def spoken(self, number: int, anaphor: str | None = None) -> tuple[str, ...]:
        """The words with the main verb in `number`, and with another reflexive where one is given."""
        own = (anaphor or self.subject.head.anaphor(self.subject.number),) if self.anaphor else ()
        said = ("are" if number else "is",) if self.verb == "be" else (verb(self.verb, number),)
        return (*self.subject.words, *said, *own, *self.rest, *((self.adverb,) if self.adverb else ()))


def written(words: Sequence[str]) -> str:
    """A sentence as text: a capital and a full stop, and `an` before a vowel."""
    parts = " ".join(words).split()
    spelt = [
        "an" if word == "a" and following[0] in "aeiou" else word for word, following in zip(parts, [*parts[1:], "."])
    ]
    text = " ".join(spelt)
    return f"{text[0].upper()}{text[1:]}."


def is_held_out(text: str) -> bool:
    """True for a sentence that no training text holds."""
    return hashlib.sha256(text.encode()).digest()[0] % HELD_OUT == 0


class Grammar:
    """Draws phrases and sentences; equal seeds draw equal ones."""

    def __init__(self, *seed: object) -> None:
        self.random = random.Random(repr(seed))

    def pick(self, words: Sequence[T]) -> T:
        """A word, the earlier ones more often."""
        return self.random.choices(words, weights(words))[0]

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.random.random() < probability

    def number(self) -> int:
        """A grammatical number, 0 singular and 1 plural."""
        return int(self.chance(PLURAL))

    def noun_phrase(self, nouns: Sequence[Noun], number: int | None = None, marked: float = 0.5) -> Phrase:
        """A determiner, an adjective or none, and a noun; `marked` of the determiners show the number."""
        number = self.number() if number is None else number
        head = self.pick(nouns)
        determiner = self.pick(DETERMINERS[number]) if self.chance(marked) else NEUTRAL[0]
        adjective = (self.pick(ADJECTIVES),) if self.chance(0.25) else ()
        return Phrase((determiner, *adjective, head.form(number)), head, number)

    def beside(self, phrase: Phrase, number: int | None = None) -> Phrase:
        """The phrase with another behind a preposition: `the dog near the cats`."""
        other = self.noun_phrase((*ANIMATE, *THINGS), number)
        return Phrase((*phrase.words, self.pick(PREPOSITIONS), *other.words), phrase.head, phrase.number)

    def subject_relative(self, phrase: Phrase, number: int | None = None) -> Phrase:
        """The phrase with a relative clause of which it is the subject: `the dog that sees the cats`."""
        other, stem = self.noun_phrase(ANIMATE, number), self.pick(TRANSITIVE)
        return Phrase((*phrase.words, "that", verb(stem, phrase.number), *other.words), phrase.head, phrase.number)

    def object_relative(self, phrase: Phrase, number: int | None = None, wrong: bool = False) -> tuple[Phrase, Phrase]:
        """The phrase with a clause of which it is the object, `the dog that the cats see`, and with that verb wrong."""
        other, stem = self.noun_phrase(ANIMATE, number), self.pick(TRANSITIVE)
        right, false = (
            Phrase((*phrase.words, "that", *other.words, verb(stem, form)), phrase.head, phrase.number)
            for form in (other.number, 1 - other.number)
        )
        return right, false

    def subject(self, nouns: Sequence[Noun]) -> Phrase:
        """A noun phrase, a third of them with something between head and verb."""
        phrase, kind = self.noun_phrase(nouns), self.random.random()
        if kind < 0.16:
            return self.beside(phrase)
        if kind < 0.25 and nouns is not THINGS:
            return self.subject_relative(phrase)
        return self.object_relative(phrase)[0] if kind < 0.34 else phrase

    def predicate(self, subject: Phrase) -> Sentence:
        """A sentence about a subject that is animate."""
        adverb, kind = self.pick(ADVERBS) if self.chance(0.3) else "", self.random.random()
        if kind < 0.35:
            return Sentence(subject, self.pick(INTRANSITIVE), adverb=adverb)
        if kind < 0.45:
            return Sentence(subject, "be", (self.pick(ADJECTIVES),))
        if kind < 0.6:
            return Sentence(subject, self.pick(REFLEXIVE), anaphor=True, adverb=adverb)
        thing = self.noun_phrase((*ANIMATE, *THINGS))
        return Sentence(subject, self.pick(TRANSITIVE), thing.words, adverb=adverb)

    def sentence(self) -> Sentence:
        """Any sentence of the language."""
        if self.chance(0.15):
            return Sentence(self.subject(THINGS), self.pick(STATIVE), adverb=self.pick(ADVERBS))
        return self.predicate(self.subject(ANIMATE))
