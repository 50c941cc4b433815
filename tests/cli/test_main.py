"""The console script: what it offers in one screen, and which script each command runs."""

import subprocess
import sys

import pytest

from mixlm import __version__
from mixlm.cli import decode, evaluate, train
from mixlm.cli import main as console
from mixlm.gin_config.build import recipes
from mixlm.recipe import Recipe


@pytest.fixture
def mixlm(monkeypatch, capsys):
    """Runs `mixlm ARGUMENTS`; returns (lines on stdout, lines on stderr, exit code)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mixlm", *arguments])
        code = 0
        try:
            console.main()
        except SystemExit as ended:
            code = ended.code
        out, err = capsys.readouterr()
        return out.splitlines(), err.splitlines(), code

    return run


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_the_help_is_one_screen_with_every_command_and_recipe(mixlm, arguments):
    out, err, code = mixlm(*arguments)
    assert (code, err) == (0, []) and len(out) <= 24 and max(map(len, out)) <= 110
    for word in ("train", "evaluate", "decode", "explain", "--gin_file", *recipes(Recipe)):
        assert word in " ".join(out)


def test_the_version_is_the_packages(mixlm):
    assert mixlm("--version") == ([f"mixlm {__version__}"], [], 0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "error: There is no command 'trian'. Did you mean 'train'?"),
        (["cook"], "error: There is no command 'cook'. Commands are train, explain, evaluate, sweep, decode, "
                   "export, import, report, lm_eval, babylm."),
        (["--gin_file=mile.gin"], "error: The command comes first, then its flags: mixlm train --gin_file=mile.gin,"
                                  " for one; commands are train, explain, evaluate, sweep, decode, "
                   "export, import, report, lm_eval, babylm."),
        (["train", "--gin_fil=mile.gin"], "error: There is no flag '--gin_fil'. Did you mean '--gin_file'?"),
        (["explain", "--profile=1:2"], "error: --explain takes no step that --profile could trace: give one of them."),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(mixlm, arguments, said):
    assert mixlm(*arguments) == ([], [said], 2)


@pytest.mark.parametrize(
    ("command", "module", "passed_on"),
    [("train", train, []), ("explain", train, ["--explain"]), ("evaluate", evaluate, []), ("decode", decode, [])],
)
def test_a_command_runs_its_script_with_the_arguments_behind_it(mixlm, monkeypatch, command, module, passed_on):
    monkeypatch.setattr(module, "main", lambda: print(sys.argv))
    assert mixlm(command, "--gin_file=mile.gin", "--text=a b")[0] == [
        str([f"mixlm {command}", *passed_on, "--gin_file=mile.gin", "--text=a b"])
    ]


def test_a_commands_help_names_the_command(mixlm):
    out, _, code = mixlm("evaluate", "--help")
    assert code == 0 and out[0].startswith("usage: mixlm evaluate ")


def test_the_package_is_a_command_too():
    done = subprocess.run([sys.executable, "-m", "mixlm", "--version"], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == (f"mixlm {__version__}\n", "", 0)
