"""The made language agrees with its heads, whatever lies between, and no pair's right sentence is in its text."""

import re

import pytest

from mixlm.data.made import lexicon
from mixlm.data.made.minimal_pairs import PARADIGMS, records
from mixlm.data.made.sentences import HELD_OUT, Grammar, is_held_out, written
from mixlm.data.sources.made import SENTENCES, MadeLanguage
from mixlm.errors import UserError
from mixlm.evaluation.pair_files import read_pairs

PLURAL_OF_NOUN = {
    form: number
    for noun in (*lexicon.ANIMATE, *lexicon.THINGS)
    for number, form in enumerate((noun.singular, noun.plural))
}
VERBS = (*lexicon.INTRANSITIVE, *lexicon.TRANSITIVE, *lexicon.REFLEXIVE, *lexicon.STATIVE)
PLURAL_OF_VERB = {"is": 0, "are": 1} | {lexicon.verb(stem, number): number for stem in VERBS for number in (0, 1)}


def numbers(sentence: str) -> tuple[list[int], list[int]]:
    """The numbers of the nouns and of the verbs, in order, by the words alone."""
    words = sentence[:-1].lower().split()
    return [PLURAL_OF_NOUN[w] for w in words if w in PLURAL_OF_NOUN], [
        PLURAL_OF_VERB[w] for w in words if w in PLURAL_OF_VERB
    ]


def agrees(sentence: str) -> bool:
    """True where the main verb, the last one, has the number of the first noun, and a relative clause its own."""
    nouns, verbs = numbers(sentence)
    words = sentence[:-1].lower().split()
    if "that" in words[1:] and len(verbs) > 1:
        relative = words.index("that", 1)
        subject = nouns[0] if words[relative + 1] in PLURAL_OF_VERB else nouns[1]
        return verbs[0] == subject and verbs[1] == nouns[0]
    return verbs[0] == nouns[0]


def test_no_word_is_both_a_noun_and_a_verb_and_no_verb_is_both_numbers():
    assert not set(PLURAL_OF_NOUN) & set(PLURAL_OF_VERB)
    assert all(lexicon.verb(stem, 0) != lexicon.verb(stem, 1) for stem in VERBS)


def test_every_sentence_of_the_text_agrees_and_none_is_held_out():
    text = " ".join(MadeLanguage(60).documents("train"))
    sentences = re.findall(r"[^.]+\.", text)
    assert len(sentences) == 60 * SENTENCES
    for sentence in map(str.strip, sentences):
        assert agrees(sentence) and not is_held_out(sentence), sentence
    drawn = [written(Grammar("any").sentence().words)] + [written(g.sentence().words) for g in [Grammar(1)] * 2000]
    assert 0.7 / HELD_OUT < sum(map(is_held_out, drawn)) / len(drawn) < 1.3 / HELD_OUT


def test_the_text_is_a_function_of_its_seed_and_its_sides_differ():
    one, other = MadeLanguage(3, 1), MadeLanguage(3, 2)
    assert list(one.documents("train")) == list(MadeLanguage(3, 1).documents("train"))
    assert not set(one.documents("train")) & {*other.documents("train"), *one.documents("validation")}
    assert len({one.fingerprint(), other.fingerprint(), MadeLanguage(4, 1).fingerprint()}) == 3
    assert list(MadeLanguage(5, 1).documents("train"))[:3] == list(one.documents("train"))


def test_of_each_pair_the_right_sentence_agrees_and_the_other_is_one_word_away():
    pairs = list(records(3, 40))
    assert {name for name, _ in pairs} == set(PARADIGMS)
    for name, pair in pairs:
        good, bad = pair["sentence_good"], pair["sentence_bad"]
        assert agrees(good) and is_held_out(good), good
        differing = [place for place, (a, b) in enumerate(zip(good.split(), bad.split())) if a != b]
        # After another article, `a` may have become `an` or the other way round.
        assert len(good.split()) == len(bad.split()) and len(differing) == 1, (good, bad)
        assert agrees(bad) == (not name.startswith("agreement"))


def test_where_a_distractor_stands_it_has_the_other_number():
    for name, pair in records(0, 40):
        nouns, _ = numbers(pair["sentence_good"])
        if len(nouns) > 1:
            assert nouns[0] != nouns[1], (name, pair)


def test_pairs_are_read_as_a_place_and_a_wrong_one_is_one_sentence():
    found = read_pairs("made:7", 3)
    assert [paradigm.name for paradigm in found] == list(PARADIGMS)
    wanted = [(pair["sentence_good"], pair["sentence_bad"]) for _, pair in records(7, 3)]
    assert [pair for paradigm in found for pair in paradigm.pairs] == wanted
    assert [pair for paradigm in read_pairs("made:7", 2) for pair in paradigm.pairs] == [
        pair for number, pair in enumerate(wanted) if number % 3 < 2
    ]
    for place in ("made:", "made:x", "made:-1"):
        with pytest.raises(UserError, match="names no seed of made pairs; it is like 'made:0'"):
            read_pairs(place)
    with pytest.raises(UserError, match=r"MadeLanguage.size is a whole number of documents above 0, not 0"):
        MadeLanguage(0)
