"""launch/decode.py: prompts in, readable texts out, one sentence for a mistake."""

import io
import os
import re
import sys

import jax
import jax.numpy as jnp
import pytest
from flax.core import meta

from mixlm import files
from mixlm.checkpoints.run_dir import RunDir
from mixlm.checkpoints.saving import Checkpoints
from mixlm.cli import decode
from mixlm.decoding.select import select
from mixlm.decoding.strategies import Autoregressive, Masked, Spans, Unrolled
from mixlm.decoding.text import fill_prompt, partial_text, until_eos
from mixlm.errors import UserError
from mixlm.gin_config.build import configured, recipes
from mixlm.gin_config.flags import Flags, run_or_explain_error
from mixlm.recipe import Recipe
from mixlm.tokens import TokenIds

SMALL = ("VOCAB_SIZE=112", "EMB_DIM=16", "TRAIN_STEPS=4", "TAU=2", "TokenIds.sentinels=20")


@pytest.fixture(scope="module")
def run_of(corpus, tmp_path_factory):
    """The arguments of a run whose network has learnt nothing, but says different things."""
    made = {}

    def arguments(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            values = (*SMALL, "TrainedSentencePiece.sentinels=20", f"TEXT={corpus}", f"MODEL_DIR={folder}")
            files = (f"--gin_file={name}.gin", "--gin_file=data/text.gin")
            made[name] = (*files, *(f"--gin.{value}" for value in values))
            _, flags = decode.parse(made[name])
            recipe = configured(flags, Recipe)
            recipe.dataset.prepare(lambda line: None)
            module = recipe.networks["model"]
            params = meta.unbox(jax.jit(module.init)(jax.random.key(1), *module.inputs())["params"])
            params = jax.tree.map(lambda leaf: 2.0 * jnp.asarray(leaf), params)
            run = RunDir(folder)
            run.acquire(recipe.identity(), "")
            run.release()
            checkpoints = Checkpoints(run.checkpoints)
            checkpoints.save(4, {"params": {"model": params}})
            checkpoints.close()
        return made[name]

    return arguments


@pytest.fixture
def command(run_of, monkeypatch, capsys):
    """Runs the script on a run; returns (lines on stdout, lines on stderr, exit code)."""

    def run(*arguments, recipe="ar2diff", stdin=b""):
        monkeypatch.setattr(sys, "argv", ["launch/decode.py", *(run_of(recipe) if recipe else ()), *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = 0
        try:
            run_or_explain_error(decode.main)
        except SystemExit as ended:
            code = ended.code
        out, err = capsys.readouterr()
        return out.splitlines(), err.splitlines(), code

    return run


def without_times(lines):
    return [re.sub(r"\d+\.\d ms", "", line) for line in lines]


PROMPT = "--prompt=The farmer sells"


def test_the_last_stage_says_how(command):
    out, err, code = command(PROMPT, "--max_tokens=5", "--steps=3", "--samples=2")
    assert code == 0 and not err
    assert "step 4: unrolled decoding, steps 3, samples 2, temperature 0.2" in out[0]
    assert out[1:3] == ["", "prompt        The farmer sells"]
    assert re.fullmatch(r"continuation  \S.*", out[3])
    cost = r" {14}3 network calls of 2 texts each \(6 texts read\), \d+\.\d ms, score -\d+\.\d{3}"
    assert re.fullmatch(cost, out[4]) and len(out) == 5


def test_the_same_seed_says_the_same(command):
    given = (PROMPT, "--how=autoregressive", "--temperature=1", "--max_tokens=8")
    first, again, other = (command(*given, f"--seed={seed}")[0] for seed in (1, 1, 2))
    assert without_times(first) == without_times(again) != without_times(other)


def test_prompts_of_a_file_and_of_standard_input(command, tmp_path):
    (tmp_path / "prompts.txt").write_text("The farmer sells\nEvery teacher\n", encoding="utf-8")
    greedy = ("--how=autoregressive", "--max_tokens=6")
    by_file = command(f"--prompt_file={tmp_path / 'prompts.txt'}", *greedy)[0]
    by_stdin = command(*greedy, stdin=b"The farmer sells\nEvery teacher\n")[0]
    by_flags = command(PROMPT, "--prompt=Every teacher", *greedy)[0]
    assert without_times(by_file) == without_times(by_stdin) == without_times(by_flags)
    assert [line for line in by_file if line.startswith("prompt")] == [
        "prompt        The farmer sells",
        "prompt        Every teacher",
    ]
    assert sum("ms for 2 texts at once" in line for line in by_file) == 2
    # What a prompt becomes does not depend on its neighbours.
    assert command("--prompt=Every teacher", *greedy)[0][3] == by_file[7]


def test_the_steps_of_a_masked_text(command):
    out, err, _ = command(PROMPT, "--how=masked", "--max_tokens=6", "--steps=3", "--show_steps", "--order=ancestral")
    assert err == ["note: no stage of this recipe trains masked decoding."]
    steps = [line for line in out if line.startswith("step ")]
    last = re.sub(r"<extra_id_\d+>", "", steps[3])
    assert steps[0].split()[2:] == ["_"] * 6 and "_" not in last and len(steps) == 4
    assert "ancestral" in out[0] and out[-1].split()[:3] == ["3", "network", "calls,"]


def test_spans_are_filled_in_their_places(command):
    # The prompt's own sentinels stand where the network says nothing for them.
    out, _, code = command("--prompt=The <extra_id_0> sells <extra_id_1> boat", "--beams=2", recipe="spactor")
    assert code == 0 and "spans decoding, temperature 0.0, beams 2" in out[0]
    assert out[2] == "prompt        The <extra_id_0> sells <extra_id_1> boat"
    assert out[3].startswith("text          The ") and out[3].endswith(" boat")


def test_fills_take_the_place_of_their_sentinels():
    ids = TokenIds(vocab_size=100, mask=4, sentinels=10)
    prompt = [20, 99, 30, 98, 40, 97]
    assert fill_prompt(prompt, {0: [7, 8], 2: []}, ids) == [20, 7, 8, 30, 98, 40]


def test_a_text_ends_at_eos_and_drops_padding():
    ids = TokenIds(vocab_size=100, mask=4, sentinels=10)
    assert until_eos([5, 0, 6, 1, 7, 0], ids) == [5, 6]
    assert until_eos([5, 6], ids) == [5, 6]


def test_a_forming_text_shows_masks_and_eos():
    class Names:
        def pieces(self, tokens):
            return [f"<{token}>" for token in tokens]

        def decode(self, tokens):
            return " ".join(self.pieces(tokens))

    assert partial_text(Names(), [4, 9, 0, 1, 4], TokenIds(vocab_size=100, mask=4, sentinels=10)) == "_ <9> <1> _"


def test_a_prompt_past_the_trained_length_gets_a_note(command):
    out, err, code = command(PROMPT, "--how=autoregressive", "--max_tokens=130")
    assert code == 0 and len(out) == 5
    assert len(err) == 1 and err[0].startswith("note: prompt 1 and 130 new tokens are 1") and "128" in err[0]


def test_explain_says_what_would_run(command):
    out, _, code = command(PROMPT, "--explain")
    assert code == 0 and len(out) == 1
    assert "would continue 1 prompt by unrolled decoding, steps 10, samples 8, temperature 0.2, at most 64" in out[0]


def test_print_config_prints_the_configuration(command):
    out, _, code = command("--print_config")
    assert code == 0 and any(line.startswith("RECIPE = ") for line in out)


def test_help_lists_the_flags(command):
    out, _, code = command("--help", recipe=None)
    text = "\n".join(out)
    assert code == 0
    for name in ("prompt", "prompt_file", "how", "temperature", "top_k", "top_p", "beams", "max_tokens", "steps"):
        assert f"--{name} " in text
    for name in ("samples", "order", "block_length", "seed", "show_steps", "prefix", "gin_file"):
        assert f"--{name}" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["no prompt", "--prompt=TEXT"]),
        (["--prompt= "], ["--prompt number 1", "empty"]),
        ([PROMPT, "--how=mask"], ["'mask'", "Did you mean 'masked'?"]),
        ([PROMPT, "--temprature=1"], ["--temprature", "Did you mean '--temperature'?"]),
        ([PROMPT, "--gin_fil=dual.gin"], ["--gin_fil", "Did you mean '--gin_file'?"]),
        ([PROMPT, "--gin.TAUU=2"], ["TAUU", "Did you mean 'TAU'?"]),
        ([PROMPT, "--steps=many"], ["--steps", "many"]),
        ([PROMPT, "--steps=0"], ["steps", "at least 1"]),
        ([PROMPT, "--samples=0"], ["samples", "at least 1"]),
        ([PROMPT, "--beams=4"], ["beams", "unrolled", "steps"]),
        ([PROMPT, "--how=autoregressive", "--steps=4"], ["steps", "autoregressive"]),
        ([PROMPT, "--how=autoregressive", "--top_k=4"], ["top_k", "temperature"]),
        ([PROMPT, "--how=autoregressive", "--beams=4", "--temperature=1"], ["4 beams", "temperature"]),
        ([PROMPT, "--how=autoregressive", "--length_penalty=1"], ["length_penalty", "beams"]),
        ([PROMPT, "--how=autoregressive", "--temperature=-1"], ["temperature", "-1"]),
        ([PROMPT, "--how=autoregressive", "--temperature=1", "--top_p=2"], ["top_p", "2"]),
        ([PROMPT, "--how=autoregressive", "--show_steps"], ["show_steps", "diffusion"]),
        ([PROMPT, "--how=masked", "--order=confident"], ["confident", "Did you mean 'confidence'?"]),
        ([PROMPT, "--how=masked", "--max_tokens=5", "--steps=9"], ["9 steps", "5 tokens"]),
        ([PROMPT, "--how=masked", "--max_tokens=9", "--block_length=2", "--steps=3"], ["5 blocks", "3"]),
        ([PROMPT, "--how=spans"], ["Prompt 1", "<extra_id_0>"]),
        ([PROMPT, "--max_tokens=0"], ["max_tokens", "0"]),
        ([PROMPT, "--seed=-1"], ["seed", "-1"]),
        (["--prompt_file=/nowhere/prompts.txt"], ["no prompt file '/nowhere/prompts.txt'"]),
    ],
)
def test_a_mistake_is_one_sentence(command, arguments, words):
    out, err, code = command(*arguments)
    assert code == 2 and not any(line.startswith("continuation") for line in out)
    assert err[-1].startswith("error: ") and err[-1].endswith((".", "?")) and "Traceback" not in "".join(err)
    for word in words:
        assert word in err[-1]


def test_an_empty_line_of_a_file_is_named(command, tmp_path):
    (tmp_path / "prompts.txt").write_text("The farmer\n\nEvery teacher\n", encoding="utf-8")
    _, err, code = command(f"--prompt_file={tmp_path / 'prompts.txt'}")
    assert code == 2 and "line 2" in err[-1] and "empty" in err[-1]


def read_prompts(*arguments, stdin=b"", monkeypatch=None):
    if monkeypatch:
        monkeypatch.setattr(sys, "stdin", stdin if stdin is None else io.TextIOWrapper(io.BytesIO(stdin)))
    return decode.prompts(decode.parse(arguments)[0])


PROMPTS = ["one", "two\u2028still\x85two", "three\x0b\x0cthree"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_prompts_are_cut_at_the_ends_of_lines_alone(tmp_path, monkeypatch, end, mark):
    content = (mark + end.join(PROMPTS) + end).encode()
    (tmp_path / "prompts.txt").write_bytes(content)
    assert read_prompts(f"--prompt_file={tmp_path / 'prompts.txt'}") == PROMPTS
    assert read_prompts(stdin=content, monkeypatch=monkeypatch) == PROMPTS


def test_only_a_regular_file_holds_prompts(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "pipe"), (tmp_path, "folder"), ("/dev/zero", "device")):
        with pytest.raises(UserError, match=f"is a {kind}, and only regular files are read"):
            read_prompts(f"--prompt_file={path}")
    assert read_prompts("--prompt_file=/proc/self/status")[0].startswith("Name:")
    for path, fault in (
        ("x" * 300, "a name in it has 300 bytes"),
        ("a\0", "it holds a NUL"),
        ("~no.body/x", "there is no user"),
    ):
        with pytest.raises(UserError, match=rf"^--prompt_file '.*' cannot be used: {fault}"):
            read_prompts(f"--prompt_file={path}")


def test_a_prompt_that_no_tokenizer_reads_is_named_with_its_byte(tmp_path, monkeypatch):
    (tmp_path / "prompts.txt").write_bytes(b"one\ntw\0o\n")
    with pytest.raises(UserError, match=r"prompts\.txt' holds a NUL character at byte 6 in line 2"):
        read_prompts(f"--prompt_file={tmp_path / 'prompts.txt'}")
    with pytest.raises(UserError, match=r"^Standard input holds a NUL character at byte 6 in line 2"):
        read_prompts(stdin=b"one\ntw\0o", monkeypatch=monkeypatch)
    with pytest.raises(UserError, match=r"^Standard input is not UTF-8: byte 1 \(0xff\)"):
        read_prompts(stdin=b"a\xff", monkeypatch=monkeypatch)
    with pytest.raises(UserError, match=r"^The prompt in --prompt number 1 holds half of a surrogate pair, U\+DCFF"):
        read_prompts("--prompt=a\udcff")


def test_standard_input_has_a_bound_and_may_be_closed(monkeypatch):
    monkeypatch.setattr(files, "MAX_JSON_BYTES", 7)
    assert read_prompts(stdin=b"one\ntwo", monkeypatch=monkeypatch) == ["one", "two"]
    with pytest.raises(UserError, match=r"^Standard input has more than 7 bytes of prompts"):
        read_prompts(stdin=b"one\ntwo\n", monkeypatch=monkeypatch)
    with pytest.raises(UserError, match=r"^There is no prompt"):
        read_prompts(stdin=None, monkeypatch=monkeypatch)


def test_diffusion_asks_for_a_decoder(command):
    _, err, code = command(PROMPT, "--how=masked", recipe="spactor")
    assert code == 2 and "EncoderDecoder" in err[-1]


def test_a_folder_without_a_run(command, tmp_path):
    _, err, code = command(PROMPT, f"--gin.MODEL_DIR={tmp_path / 'none'}")
    assert code == 2 and str(tmp_path / "none") in err[-1]


STRATEGY = {
    "antlm.gin": Autoregressive(),
    "antlm_ltg_bert.gin": Autoregressive(),
    "ar2diff.gin": Unrolled(),
    "dual.gin": Autoregressive(),
    "gpt_bert.gin": Autoregressive(),
    "mile.gin": Autoregressive(),
    "spactor.gin": Spans(),
}


@pytest.mark.parametrize("name", STRATEGY)
def test_each_recipe_is_decoded_as_it_was_trained(name):
    recipe = configured(Flags((name,)), Recipe)
    selection = select(recipe)
    assert selection.strategy({}) == STRATEGY[name] and selection.network == "model" and selection.trained


@pytest.mark.parametrize(("name", "shifted", "start"), [("dual.gin", True, True), ("antlm.gin", False, False)])
def test_masks_are_read_as_in_training(name, shifted, start):
    recipe = configured(Flags((name,)), Recipe)
    assert select(recipe, "masked").strategy({"steps": 3}) == Masked(steps=3, shifted=shifted, start=start)


def test_diffusion_is_shifted_and_prefixes_are_read_as_in_training():
    shifted = configured(Flags(("ar2diff.gin",), bindings=("SHIFTED = True",)), Recipe)
    assert select(shifted).strategy({"steps": 2}) == Unrolled(steps=2, shifted=True)
    both_ways = ("TAU = %TRAIN_STEPS", "PrefixLM.bidirectional_prefix = True")
    prefix = select(configured(Flags(("ar2diff.gin",), bindings=both_ways), Recipe))
    assert prefix.strategy({}) == Autoregressive(prefix=True)
    assert prefix.strategy({"prefix": False}) == Autoregressive()


def test_the_stage_that_is_never_reached_says_nothing():
    recipe = configured(Flags(("ar2diff.gin",), bindings=("TAU = %TRAIN_STEPS",)), Recipe)
    assert select(recipe).how == "autoregressive"


def test_every_recipe_can_be_decoded():
    for name in recipes(Recipe):
        select(configured(Flags((name,)), Recipe)).strategy({})
