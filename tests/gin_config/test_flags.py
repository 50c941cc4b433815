"""Laws of the command line: how flags are read, and how a script ends."""

import sys

import pytest

from mixlm.cli import decode
from mixlm.errors import UserError
from mixlm.gin_config import flags
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


def test_a_flag_of_another_command_is_called_that_and_never_corrected_to_itself():
    of_decode = [option for action in decode._parser()._actions for option in action.option_strings]
    assert sorted({*of_decode} - {"-h", "--help"}) == sorted(flags.DECODE_OPTIONS)
    for option in flags.DECODE_OPTIONS:
        for several in (False, True):
            with pytest.raises(UserError, match=rf"^{option} is a flag of `mixlm decode` alone\.$"):
                parse_flags([f"{option}=1"], "", several)
    for option in flags._TRAIN_OPTIONS:
        for parse in (lambda argv: parse_flags(argv, ""), decode.parse):
            with pytest.raises(UserError, match=rf"^{option} is a flag of `mixlm train` alone\.$"):
                parse([f"{option}=1"])


@pytest.mark.parametrize("argv", [["--", "--explain"], ["--explain", "--", "x"], ["--print_config", "--"]])
def test_two_dashes_end_nothing(argv):
    with pytest.raises(UserError, match=r"^The argument '--' has no meaning here|'--': give it once") as error:
        parse_flags(argv, "")
    assert "Did you mean" not in str(error.value)


def test_flags_are_read_as_they_are_written():
    argv = "--gin_file a --gin_search_paths=x,y --gin.A=-1 --gin.B -2 --gin_search_paths z --gin_file=b --explain"
    assert parse_flags(argv.split(), "") == Flags(("a", "b"), ("x", "y", "z"), ("A = -1", "B = -2"), explain=True)
    assert parse_flags(["--print_config", "--gin.C="], "") == Flags(bindings=("C = ''",), print_config=True)


def test_several_processes_are_for_the_script_that_can():
    argv = ["--coordinator=host:1", "--processes=2", "--process", "1"]
    found = parse_flags(argv, "", several=True)
    assert (found.coordinator, found.processes, found.process) == ("host:1", 2, 1)
    with pytest.raises(UserError, match="--coordinator is a flag of `mixlm train` alone"):
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
