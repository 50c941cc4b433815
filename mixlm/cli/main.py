"""The console script `mixlm`: one command for each script of launch/, and `explain`."""

import sys
from collections.abc import Sequence
from importlib import import_module

from mixlm import __version__
from mixlm.errors import UserError, nearest
from mixlm.gin_config.flags import run_or_explain_error
from mixlm.gin_config.folder import recipe_names

# The module of mixlm.cli that runs each command, the flags that it adds, and its line of help.
_COMMANDS = {
    "train": ("train", (), "train a recipe, or resume a run"),
    "explain": ("train", ("--explain",), "describe a run before training it, with examples"),
    "evaluate": ("evaluate", (), "score a run on held-out text and on minimal pairs"),
    "sweep": ("sweep", (), "train a study: a grid of macros, with seeds"),
    "decode": ("decode", (), "continue prompts with a run"),
    "export": ("export", (), "write a run for other libraries"),
    "import": ("import_", (), "make a run of another library's checkpoint"),
    "report": ("report", (), "the page of a run; tables, tests and verdicts of a study"),
    "lm_eval": ("lm_eval", (), "score a run by lm-evaluation-harness"),
    "babylm": ("babylm", (), "score a run on BabyLM's zero-shot suites"),
}
_USAGE = """\
usage: mixlm COMMAND --gin_file=NAME.gin [--gin.NAME=VALUE ...] [FLAGS]

Pretraining objectives for language models, composed in one JAX train step.

{commands}

  mixlm train --gin_file=spactor.gin                            a small T5, on text that a package carries
  mixlm train --gin_file=spactor.gin --gin.TAU=150 --gin.MODEL_DIR=runs/tau150
  mixlm evaluate --gin_file=spactor.gin --gin.MODEL_DIR=runs/spactor
  mixlm decode --gin_file=spactor.gin --gin.MODEL_DIR=runs/spactor --prompt="The <extra_id_0> of the States"

recipes: {recipes}
`mixlm COMMAND --help` lists the flags of a command; `mixlm --version` prints the version."""


def main() -> None:
    """Runs the command that the command line names."""
    run_or_explain_error(lambda: _run(sys.argv[1:]))


def _run(argv: Sequence[str]) -> None:
    name = argv[0] if argv else "--help"
    if name in ("--help", "-h", "help"):
        print(usage())
    elif name == "--version":
        print(f"mixlm {__version__}")
    elif name in _COMMANDS:
        module, flags, _ = _COMMANDS[name]
        # The scripts read sys.argv, and argparse names the program by its first entry.
        sys.argv = [f"mixlm {name}", *flags, *argv[1:]]
        import_module(f"mixlm.cli.{module}").main()
    elif name.startswith("-"):
        raise UserError(
            f"The command comes first, then its flags: mixlm train {name}, for one; commands are {_names()}."
        )
    else:
        hint = nearest(name, _COMMANDS) or f" Commands are {_names()}."
        raise UserError(f"There is no command {name!r}.{hint}")


def usage() -> str:
    """Returns the help of `mixlm`, one screen: commands, examples, and the recipes that come with it."""
    commands = "\n".join(f"  {name:<10}{text}" for name, (_, _, text) in _COMMANDS.items())
    return _USAGE.format(commands=commands, recipes=", ".join(recipe_names()))


def _names() -> str:
    return ", ".join(_COMMANDS)
