"""Pairs of inputs and targets over the made language whose answers are exact: spans of a text, and inflected words."""

from collections.abc import Callable, Iterator, Mapping

from mixlm.data.made.lexicon import ANIMATE, verb
from mixlm.data.made.sentences import Grammar, Sentence, is_held_out

Pair = tuple[str, str]
LONGEST, SAID = 22, 8  # words of a text that is asked about, and of what is said of it
CONSONANTS, FRONT, BACK = "bdfgklmnprstvz", "ei", "aou"
TENSES = ("past", "future", "perfect", "negative")


def _clause(grammar: Grammar) -> Sentence:
    return grammar.predicate(grammar.subject(ANIMATE))


def question(grammar: Grammar) -> Pair:
    """Two clauses and the verb of one of them; the answer is that one's subject, a span of the text."""
    while True:
        clauses = [_clause(grammar), _clause(grammar)]
        said = [verb(each.verb, each.subject.number) for each in clauses if each.verb != "be"]
        words = [*clauses[0].words, "and", *clauses[1].words]
        asked = grammar.random.randrange(2)
        # The verb stands once in the text, so that one span answers.
        if len(said) < 2 or len(words) > LONGEST or words.count(said[asked]) > 1:
            continue
        subject = clauses[asked].subject.words
        if len(subject) <= SAID:
            return f"{' '.join(words)} . who {said[asked]} ?", " ".join(subject)


def stem(grammar: Grammar) -> str:
    """A made word of two or three syllables, half of them ending with a consonant."""
    draw = grammar.random
    syllables = [draw.choice(CONSONANTS) + draw.choice(FRONT + BACK) for _ in range(draw.choice((2, 3)))]
    return "".join(syllables) + (draw.choice(CONSONANTS) if draw.random() < 0.5 else "")


def inflected(word: str, tense: str) -> str:
    """The form of a made word, by its last vowel (front: -e-, back: -a-) and whether it ends with a vowel.

    Past: walo, walota; walok, walokat. Future: -r. Perfect: the first syllable again and then the past. Negative:
    n- with the vowel before the word.
    """
    vowel = "e" if next(letter for letter in reversed(word) if letter in FRONT + BACK) in FRONT else "a"
    open_ending = word[-1] in FRONT + BACK
    if tense == "negative":
        return f"n{vowel}{word}"
    ending = {"past": "t", "future": "r", "perfect": "t"}[tense]
    form = f"{word}{ending}{vowel}" if open_ending else f"{word}{vowel}{ending}"
    return form[:2] + form if tense == "perfect" else form


def inflection(grammar: Grammar) -> Pair:
    """A made word, spelt, and a tense; the answer is its form, spelt."""
    word, tense = stem(grammar), grammar.pick(TENSES)
    return f"{' '.join(word)} . {tense} ?", " ".join(inflected(word, tense))


def continuation(grammar: Grammar) -> Pair:
    """A sentence and the beginning of another about the same subject; one in four is a spelt word that is repeated."""
    if grammar.chance(0.25):
        word = " ".join(stem(grammar))
        return f"{word} .", word
    while True:
        sentence = _clause(grammar)
        following = grammar.predicate(sentence.subject)
        if len(sentence.words) <= LONGEST:
            return f"{' '.join(sentence.words)} .", " ".join(following.words[:SAID])


KINDS: Mapping[str, Callable[[Grammar], Pair]] = {
    "continuation": continuation,
    "question": question,
    "inflection": inflection,
}


def pairs(kind: str, seed: int, split: str, size: int) -> Iterator[Pair]:
    """`size` pairs of a kind; no inputs of the validation split stand in the other."""
    grammar, found = Grammar("pairs", kind, seed, split), 0
    while found < size:
        inputs, targets = KINDS[kind](grammar)
        if is_held_out(inputs) == (split == "validation"):
            found += 1
            yield inputs, targets
