"""The command that hands runs to lm-evaluation-harness: its defaults, and names of modes."""

import pytest

from mixlm.cli.lm_eval import TASKS, arguments
from mixlm.errors import UserError
from mixlm.evaluation.modes import modes_of
from mixlm.interop.lm_eval.model import RunModel, full_name
from mixlm.models.llama import Llama
from mixlm.tokens import TokenIds

OURS = ["--model", "mixlm"]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["--tasks", "piqa"], ["run", *OURS, "--include_path", str(TASKS), "--tasks", "piqa"]),
        (["run", "--model=hf", "--include_path=x"], ["run", "--model=hf", "--include_path=x"]),
        (["ls", "tasks"], ["ls", "tasks"]),
        ([], []),
    ],
)
def test_the_model_and_our_tasks_are_the_defaults(given, wanted):
    assert arguments(given) == wanted


def test_our_tasks_are_there():
    assert sorted(path.stem for path in TASKS.glob("*.yaml")) == ["dual_blimp", "dual_mmlu", "dual_zero_shot"]


LLAMA = Llama(vocab_size=32, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=24, num_layers=1)
MODES = modes_of(LLAMA, TokenIds(vocab_size=32, mask=4, bos=3, sentinels=6), answer=True, words=True)


def test_a_mode_that_the_network_has_not_names_those_it_has():
    with pytest.raises(UserError, match=r"Llama has no scoring mode 'filling', only causal, prefix, pll_shifted, "):
        full_name("filling", MODES, None, "Llama")


def test_a_mode_without_a_shift_is_that_of_training():
    assert full_name("pll_next2", MODES, True, "Llama") == "pll_shifted_next2"
    assert full_name("diffusion", MODES, False, "Llama") == "diffusion_unshifted"
    assert full_name("causal", MODES, None, "Llama") == "causal"
    with pytest.raises(UserError, match=r"give mode=pll_shifted_word or mode=pll_unshifted_word"):
        full_name("pll_word", MODES, None, "Llama")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, r"--model_args names the run: run=RUN"),
        ({"run": "x", "modes": "pll"}, r"no 'modes', only run, mode, .* Did you mean 'mode'"),
        ({"run": "x", "device": "cpu"}, r"--device has no effect"),
        ({"run": "x", "max_batch_size": 4}, r"--max_batch_size has no effect"),
        ({"run": "nowhere"}, r"There is no run in nowhere"),
    ],
)
def test_a_wrong_argument_is_one_sentence(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        RunModel(**settings)
