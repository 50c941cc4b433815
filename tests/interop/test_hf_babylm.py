"""Exports answer the calls of BabyLM's pipeline as mixlm scores the run, sentence by sentence, by each of its backends.

The calls are those of its `sentence_zero_shot`: AutoProcessor with offsets, AutoModelForCausalLM and
AutoModelForMaskedLM with `trust_remote_code`, rows padded at the right, and what the tokens of a completion are.
"""

from functools import cache

import numpy as np
import pytest
from support.runs import DEVICES
from support.saved_runs import saved_run, small

from mixlm.api.functions import load_recipe
from mixlm.interop.babylm.run import DECODERS, judges
from mixlm.interop.hf.export import export
from mixlm.interop.loaded import Loaded

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]
RECIPES = {"dual": "Llama", "antlm_ltg_bert": "LTGBert", "gpt_bert": "GPTBert"}
SENTENCES = (
    "The farmer sells two letters.", "The farmer sell two letters.", "Two here.", "Two there, two here.",
    "A captain sells few letters to the farmer here.", "A captain sells few letter to the farmer here.",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(corpus, tmp_path_factory):
    """A function of a recipe's name: a run of it, and the folder of its export, both made once."""

    @cache
    def of(name):
        folder = tmp_path_factory.mktemp(name)
        values = small(RECIPES[name]) | {"MODEL_DIR": folder / "run"}
        run = saved_run(load_recipe(f"{name}.gin", text=corpus, **values))
        return run, export(run, folder / "out", say=lambda line: None)

    return of


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


def pipeline_scores(model, processor, sentences, backend):
    """Sums of log-probabilities as the pipeline adds them up; `mlm` alone reads a token at its own place."""
    mask, left = None if backend == "causal" else processor.mask_token_id, backend != "mlm"
    given, scores = rows(processor, sentences, mask), np.zeros(len(sentences))
    width = max(len(tokens) for tokens, *_ in given)
    pad = processor.pad_token_id

    def padded(number, value):
        return torch.tensor([each[number] + [value] * (width - len(each[number])) for each in given])

    with torch.no_grad():
        logits = model(input_ids=padded(0, pad), attention_mask=padded(1, 0))["logits"]
    logs = torch.log_softmax(logits, -1).numpy()
    for row, (_, _, places, targets, number) in enumerate(given):
        scores[number] += sum(logs[row, place - left, target] for place, target in zip(places, targets))
    return scores


@pytest.mark.parametrize(
    ("name", "backend"),
    [("dual", "causal"), ("dual", "mntp"), ("dual", "mlm"), ("antlm_ltg_bert", "mlm"), ("gpt_bert", "mntp")],
)
def test_a_sentence_scores_there_what_it_scores_here(name, backend, made, tmp_path, monkeypatch):
    monkeypatch.setattr("jax.devices", lambda *_: DEVICES[:1])
    run, folder = made(name)
    auto = transformers.AutoModelForCausalLM if backend == "causal" else transformers.AutoModelForMaskedLM
    processor = transformers.AutoProcessor.from_pretrained(folder, padding_side="right", trust_remote_code=True)
    model = auto.from_pretrained(folder, trust_remote_code=True).eval()
    mode = next(mode for mode, called in DECODERS.items() if called == backend)
    (judge,) = judges(Loaded(run, say=lambda line: None), mode, tmp_path, "main")
    ours = judge.scores([("", text, text, text) for text in SENTENCES])
    np.testing.assert_allclose(pipeline_scores(model, processor, SENTENCES, backend), ours, rtol=1e-5, atol=1e-4)
