"""Made pairs have the answer that their inputs ask for, by other code; as a task they hold inputs, targets and EOS."""

import itertools

import numpy as np
import pytest

from mixlm.data.made.questions import BACK, FRONT, KINDS, inflected, pairs
from mixlm.data.pair_task import PairTask
from mixlm.data.sources.made import MadePairs, MadePairsText
from mixlm.data.vocabulary import TrainedSentencePiece
from mixlm.errors import UserError


def test_the_answer_of_a_question_is_one_span_of_its_text_and_stands_before_the_verb_that_is_asked_for():
    for inputs, answer in pairs("question", 0, "train", 150):
        text, _, asked = inputs.removesuffix(" ?").partition(" . who ")
        clauses = text.split(" and ")
        assert len(clauses) == 2 and sum(f"{answer} {asked}" in clause for clause in clauses) == 1
        (clause,) = (clause for clause in clauses if f"{answer} {asked}" in clause)
        assert clause.startswith(answer)


@pytest.mark.parametrize(
    ("word", "forms"),
    [
        ("walo", ("walota", "walora", "wawalota", "nawalo")),
        ("kibes", ("kibeset", "kibeser", "kikibeset", "nekibes")),
        ("tode", ("todete", "todere", "totodete", "netode")),
    ],
)
def test_forms_are_those_of_the_rules(word, forms):
    assert tuple(inflected(word, tense) for tense in ("past", "future", "perfect", "negative")) == forms


def test_an_inflection_is_spelt_and_every_class_of_words_occurs():
    seen = set()
    for inputs, answer in pairs("inflection", 0, "train", 300):
        spelt, _, asked = inputs.removesuffix(" ?").partition(" . ")
        word = spelt.replace(" ", "")
        assert answer == " ".join(inflected(word, asked))
        last = next(letter for letter in word[::-1] if letter in FRONT + BACK)
        seen.add((asked, last in FRONT, word[-1] in FRONT + BACK))
    assert len(seen) == 4 * 2 * 2


@pytest.mark.parametrize("kind", list(KINDS))
def test_no_inputs_are_on_both_sides_and_a_longer_set_begins_as_a_shorter_one(kind):
    source = MadePairs(kind, 60)
    train, held_out = list(source.pairs("train")), list(source.pairs("validation"))
    assert (len(train), len(held_out)) == (60, 6)
    assert not {inputs for inputs, _ in train} & {inputs for inputs, _ in held_out}
    assert list(itertools.islice(MadePairs(kind, 200).pairs("train"), 60)) == train
    assert MadePairs(kind, 60, 1).fingerprint() != source.fingerprint() != MadePairs(kind, 61).fingerprint()


def test_a_pair_is_tokenised_as_inputs_and_then_targets_with_eos(tmp_path):
    task = PairTask("made", MadePairs("inflection", 40), TrainedSentencePiece(140, sentinels=4), MadePairsText(40))
    vocabulary = task.load_vocabulary(tmp_path, lambda line: None)
    found = list(task.tokenized(vocabulary, "train", 7))
    assert len(found) == 33 and task.count("train") == 40 and task.count("validation") == 4
    for one, (inputs, targets) in zip(found, list(task.source.pairs("train"))[7:]):
        assert one.tokens.dtype == np.int32 and one.text_bytes == len(inputs) + len(targets)
        assert vocabulary.decode(one.tokens[: one.inputs]) == inputs
        assert vocabulary.decode(one.tokens[one.inputs : -1]) == targets and one.tokens[-1] == 1
    others = [PairTask("made", MadePairs("question", 40), task.vocabulary, task.text)]
    others += [PairTask("made", task.source, task.vocabulary, MadePairsText(41))]
    assert task.fingerprint() not in {other.fingerprint() for other in others}


def test_what_is_no_kind_is_one_sentence():
    with pytest.raises(UserError, match=r"not 'questions'\. Did you mean 'question'\?"):
        MadePairs("questions")
    with pytest.raises(UserError, match="whole number of pairs above 0, not 0"):
        MadePairs("question", 0)
    with pytest.raises(UserError, match="may only hold letters"):
        PairTask("a b", MadePairs("question"), TrainedSentencePiece(140), MadePairsText())
