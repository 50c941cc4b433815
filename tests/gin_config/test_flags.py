"""Laws of the command line: how flags are read, and how a script ends."""

import sys

import pytest

from mixlm.errors import UserError
from mixlm.gin_config.flags import Flags, parse_flags, run_or_explain_error


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--gin_fil=spans", "There is no flag '--gin_fil'. Did you mean '--gin_file'?"),
        ("--print_confg", "There is no flag '--print_confg'. Did you mean '--print_config'?"),
        ("--TAU=3", "There is no flag '--TAU'. Did you mean '--gin.TAU'?"),
        ("spans.gin", "The argument 'spans.gin' stands alone: gin files are named with --gin_file=NAME."),
        ("--gin.TAU", "--gin.TAU needs a value: write --gin.TAU=VALUE."),
        ("--gin.=3", "'--gin.=3' names nothing to set: write --gin.NAME=value."),
        ("--gin_file", "--gin_file: expected one argument."),
        ("--explain=maybe", "--explain: ignored explicit argument 'maybe'."),
    ],
)
def test_a_wrong_flag_gets_one_sentence(argument, said):
    with pytest.raises(UserError) as caught:
        parse_flags([argument], "")
    assert str(caught.value) == said


def test_flags_are_read_as_they_are_written():
    argv = "--gin_file a --gin_search_paths=x,y --gin.A=-1 --gin.B -2 --gin_search_paths z --gin_file=b --explain"
    assert parse_flags(argv.split(), "") == Flags(("a", "b"), ("x", "y", "z"), ("A = -1", "B = -2"), explain=True)
    assert parse_flags(["--print_config", "--gin.C="], "") == Flags(bindings=("C = ''",), print_config=True)


def test_several_processes_are_for_the_script_that_can():
    argv = ["--coordinator=host:1", "--processes=2", "--process", "1"]
    found = parse_flags(argv, "", several=True)
    assert (found.coordinator, found.processes, found.process) == ("host:1", 2, 1)
    with pytest.raises(UserError, match="There is no flag '--coordinator'"):
        parse_flags(argv, "")
    with pytest.raises(UserError, match="--process: invalid int value: 'one'"):
        parse_flags(["--process=one"], "", several=True)


def test_an_interrupt_ends_at_once_with_130_and_other_errors_keep_their_traceback(monkeypatch):
    # Python's own way out would wait for what is being compiled.
    monkeypatch.setattr("os._exit", sys.exit)

    def interrupted():
        raise KeyboardInterrupt

    def broken():
        raise RuntimeError("ours")

    with pytest.raises(SystemExit) as ended:
        run_or_explain_error(interrupted)
    assert ended.value.code == 130
    with pytest.raises(RuntimeError, match="ours"):
        run_or_explain_error(broken)
