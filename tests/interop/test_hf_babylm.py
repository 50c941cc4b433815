"""An exported dual answers the calls of BabyLM's pipeline as mixlm scores the run, sentence by sentence.

The calls are those of its `sentence_zero_shot`: AutoProcessor with offsets, AutoModelForCausalLM and
AutoModelForMaskedLM with `trust_remote_code`, rows padded at the right, and what the tokens of a completion are.
"""

from pathlib import Path

import numpy as np
import pytest
from support.hf_networks import NETWORKS, parameters, recipe
from support.runs import DEVICES

from mixlm.data.vocabulary import TrainedSentencePiece
from mixlm.evaluation.conventions import CONTEXTS
from mixlm.evaluation.minimal_pairs import pair_sentences
from mixlm.evaluation.modes import modes_of
from mixlm.evaluation.pair_files import Paradigm
from mixlm.evaluation.scorer import Scorer
from mixlm.interop.hf import export
from mixlm.interop.hf.architectures import MODELING, architecture_of
from mixlm.interop.hf.tokenizer import tokenizer_files
from mixlm.interop.hf.weights import to_theirs

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]
WORDS = [f"The farmer sells {many} letters to a captain {where}." for many in "two few" for where in ("here", "there")]
PAIRS = (
    ("The farmer sells two letters.", "The farmer sell two letters."),
    ("A captain sells few letters to the farmer here.", "A captain sells few letter to the farmer here."),
    ("Two here.", "Two there, two here."),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of an exported dual, its network and parameters, and the vocabulary."""
    folder = tmp_path_factory.mktemp("babylm")
    vocabulary = TrainedSentencePiece(vocab_size=46, sentinels=20).load(
        lambda: WORDS * 9, "", folder, lambda line: None
    )
    network = NETWORKS["dual"]
    params = parameters(network)
    architecture = architecture_of(recipe(network, folder / "run", masked=True))
    contents = tokenizer_files(vocabulary, decoder=True)
    contents |= {"config.json": export.as_json(architecture.config)}
    contents[f"{MODELING}.py"] = Path(export.__file__).with_name(f"{MODELING}.py").read_bytes()
    export.write_folder(folder / "out", contents, to_theirs(architecture.kind, params))
    return folder / "out", network, params, vocabulary


def rows(processor, sentences, mask):
    """(tokens, attention mask, places, targets, sentence) of one row for each token, masked, or of whole sentences."""
    found = []
    for number, sentence in enumerate(sentences):
        given = processor(text=sentence, return_offsets_mapping=True)
        places = [place for place, (_, end) in enumerate(given["offset_mapping"]) if end > 0]
        ids = given["input_ids"]
        for hidden in [[place] for place in places] if mask is not None else [places]:
            tokens = [mask if mask is not None and place in hidden else token for place, token in enumerate(ids)]
            found.append((tokens, given["attention_mask"], hidden, [ids[place] for place in hidden], number))
    return found


def pipeline_scores(model, processor, sentences, mask=None):
    """Sums of log-probabilities as the pipeline adds them up: of `mntp` with a mask, and causal without."""
    given, scores = rows(processor, sentences, mask), np.zeros(len(sentences))
    width = max(len(tokens) for tokens, *_ in given)
    pad = processor.pad_token_id

    def padded(number, value):
        return torch.tensor([each[number] + [value] * (width - len(each[number])) for each in given])

    with torch.no_grad():
        logits = model(input_ids=padded(0, pad), attention_mask=padded(1, 0))["logits"]
    logs = torch.log_softmax(logits, -1).numpy()
    for row, (_, _, places, targets, number) in enumerate(given):
        scores[number] += sum(logs[row, place - 1, target] for place, target in zip(places, targets))
    return scores


def our_scores(made, mode):
    _, network, params, vocabulary = made
    tokens = vocabulary.token_ids
    sentences = pair_sentences([Paradigm("x", "y", "z", PAIRS)], vocabulary.encode)
    mesh = recipe(network, made[0].parent).partitioning.mesh(DEVICES[:1])
    modes = modes_of(network, tokens, context=CONTEXTS["bos"](tokens))
    return Scorer(network, params, mesh, 1024)(modes[mode], sentences, mode).total


@pytest.mark.parametrize(
    ("auto", "mode"), [("AutoModelForCausalLM", "causal"), ("AutoModelForMaskedLM", "pll_shifted")]
)
def test_a_sentence_scores_there_what_it_scores_here(auto, mode, made):
    folder = made[0]
    processor = transformers.AutoProcessor.from_pretrained(folder, padding_side="right", trust_remote_code=True)
    model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True).eval()
    sentences = [pair[side] for side in (0, 1) for pair in PAIRS]
    mask = processor.mask_token_id if mode != "causal" else None
    theirs = pipeline_scores(model, processor, sentences, mask)
    np.testing.assert_allclose(theirs, our_scores(made, mode), rtol=1e-5, atol=1e-4)
