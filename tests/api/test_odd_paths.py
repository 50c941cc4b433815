"""Whatever a user gives as a run, a text or a prompt: it is read within bounds, or is one sentence."""

import os

import pytest

import mixlm
from mixlm.api.functions import documents_of
from mixlm.decoding.run import prepare
from mixlm.errors import UserError


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("a\0b", r"^The run 'a\\x00b' cannot be used: it holds a NUL character\."),
        ("x" * 300, r"^The run 'x{80}\.\.\.' cannot be used: a name in it has 300 bytes"),
        ("~no.body/run", "there is no user 'no.body' with a home folder"),
        ("", r"^There is no run in \. \(no recipe\.json\)\."),
        ("/dev/zero", r"^There is no run in /dev/zero \(no recipe\.json\)\.$"),
        ("file", r"^There is no run in file \(no recipe\.json\)\.$"),
        ("file/below", r"^There is no run in file/below \(no recipe\.json\)\.$"),
        ("loop", r"^The run 'loop' cannot be used: Too many levels of symbolic links\.$"),
        ("dangling", r"^There is no run in dangling \(no recipe\.json\)\.$"),
        ("piped", r"^There is no run in piped \(no recipe\.json\)\.$"),
    ],
)
def test_what_is_no_run_is_one_sentence(tmp_path, monkeypatch, given, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("a")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "piped").mkdir()
    os.mkfifo(tmp_path / "piped" / "recipe.json")
    with pytest.raises(UserError, match=said):
        mixlm.Run(given)


def test_the_configuration_of_a_run_is_a_regular_file(tmp_path):
    (tmp_path / "recipe.json").write_text("{}")
    os.mkfifo(tmp_path / "config.gin")
    with pytest.raises(UserError, match=r"config\.gin' is a pipe, and only regular files are read\.$"):
        _ = mixlm.Run(tmp_path).recipe


def test_a_text_of_any_length_is_a_text_and_one_with_nul_is_refused():
    assert list(documents_of("word " * 9999)()) == [("word " * 9999).strip()]
    for text, said in (
        ("a b\0", "NUL character at byte 3"),
        ("a \ud800", "half of a surrogate pair, U[+]D800, at byte 2"),
    ):
        with pytest.raises(UserError, match=f"^The text holds (a )?{said}, which no tokenizer reads"):
            documents_of(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\0", "^Prompt 2 holds a NUL character at byte 1"),
        ("\udcff", "^Prompt 2 holds half of a surrogate pair"),
    ],
)
def test_a_prompt_is_text_that_a_tokenizer_reads(text, said):
    with pytest.raises(UserError, match=said):
        prepare(mixlm.load_recipe("dual.gin"), ["one", text])
