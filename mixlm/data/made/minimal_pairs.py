"""Minimal pairs of the made language in BLiMP's format: which of two sentences is right is known by construction."""

from collections.abc import Callable, Iterator, Mapping

from mixlm.data.made.lexicon import ANIMATE, DETERMINERS, FEMALE, INTRANSITIVE, MALE, REFLEXIVE
from mixlm.data.made.sentences import Grammar, Sentence, is_held_out, written

PAIRS = 200  # Ours: of each paradigm, an interval of 7 points to either side at half of them right
Words = tuple[str, ...]


def _wrong_number(sentence: Sentence) -> tuple[Words, Words]:
    return sentence.words, sentence.spoken(1 - sentence.subject.number)


def _simple(grammar: Grammar) -> tuple[Words, Words]:
    return _wrong_number(Sentence(grammar.noun_phrase(ANIMATE), grammar.pick(INTRANSITIVE)))


def _prepositional(grammar: Grammar) -> tuple[Words, Words]:
    phrase = grammar.noun_phrase(ANIMATE)
    return _wrong_number(Sentence(grammar.beside(phrase, 1 - phrase.number), grammar.pick(INTRANSITIVE)))


def _subject_relative(grammar: Grammar) -> tuple[Words, Words]:
    phrase = grammar.noun_phrase(ANIMATE)
    return _wrong_number(Sentence(grammar.subject_relative(phrase, 1 - phrase.number), grammar.pick(INTRANSITIVE)))


def _object_relative(grammar: Grammar) -> tuple[Words, Words]:
    phrase = grammar.noun_phrase(ANIMATE)
    return _wrong_number(Sentence(grammar.object_relative(phrase, 1 - phrase.number)[0], grammar.pick(INTRANSITIVE)))


def _within_object_relative(grammar: Grammar) -> tuple[Words, Words]:
    phrase = grammar.noun_phrase(ANIMATE)
    right, false = grammar.object_relative(phrase, 1 - phrase.number)
    stem = grammar.pick(INTRANSITIVE)
    return Sentence(right, stem).words, Sentence(false, stem).words


def _determiner(grammar: Grammar) -> tuple[Words, Words]:
    number = grammar.number()
    phrase = grammar.noun_phrase(ANIMATE, number, marked=1.0)
    right = Sentence(phrase, grammar.pick(INTRANSITIVE)).words
    # The noun and its verb stay, so that the determiner alone is wrong.
    return right, (grammar.pick(DETERMINERS[1 - number]), *right[1:])


def _anaphor_number(grammar: Grammar) -> tuple[Words, Words]:
    phrase = grammar.noun_phrase(ANIMATE)
    sentence = Sentence(grammar.beside(phrase, 1 - phrase.number), grammar.pick(REFLEXIVE), anaphor=True)
    return sentence.words, sentence.spoken(phrase.number, phrase.head.anaphor(1 - phrase.number))


def _anaphor_gender(grammar: Grammar) -> tuple[Words, Words]:
    own, other = (MALE, FEMALE) if grammar.chance(0.5) else (FEMALE, MALE)
    sentence = Sentence(grammar.noun_phrase(own, 0), grammar.pick(REFLEXIVE), anaphor=True)
    return sentence.words, sentence.spoken(0, other[0].reflexive)


PARADIGMS: Mapping[str, tuple[str, Callable[[Grammar], tuple[Words, Words]]]] = {
    "agreement_simple": ("subject_verb", _simple),
    "agreement_across_prepositional_phrase": ("subject_verb", _prepositional),
    "agreement_across_subject_relative": ("subject_verb", _subject_relative),
    "agreement_across_object_relative": ("subject_verb", _object_relative),
    "agreement_within_object_relative": ("subject_verb", _within_object_relative),
    "determiner_noun": ("determiner_noun", _determiner),
    "anaphor_number": ("anaphor", _anaphor_number),
    "anaphor_gender": ("anaphor", _anaphor_gender),
}


def records(seed: int = 0, pairs: int = PAIRS) -> Iterator[tuple[str, dict[str, str]]]:
    """(Paradigm, record of a pair), `pairs` of each paradigm; no acceptable sentence stands in the training text.

    Of equal seeds the first pairs are the same, however many there are.
    """
    for name, (kind, draw) in PARADIGMS.items():
        grammar = Grammar("minimal pairs", seed, name)
        for _ in range(pairs):
            good, bad = _held_out(grammar, draw)
            yield name, {"sentence_good": good, "sentence_bad": bad, "UID": name, "field": kind}


def _held_out(grammar: Grammar, draw: Callable[[Grammar], tuple[Words, Words]]) -> tuple[str, str]:
    while True:
        good, bad = map(written, draw(grammar))
        if is_held_out(good):
            return good, bad
