"""Runs lm-evaluation-harness on a run: mixlm lm_eval --model_args run=RUN,mode=MODE --tasks TASKS [FLAGS].

All flags are the harness's own. `--model mixlm` is the default, and so are the tasks that come with mixlm.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

import mixlm.interop.lm_eval.model as interop
from mixlm.errors import UserError

TASKS = Path(interop.__file__).with_name("task_files")


def main() -> None:
    """Hands the command line to the harness, once it knows runs."""
    interop.register()
    import jinja2
    from lm_eval.__main__ import cli_evaluate

    sys.argv = ["lm_eval", *arguments(sys.argv[1:])]
    try:
        cli_evaluate()
    except jinja2.TemplateError as error:
        raise UserError(f"A template of the task cannot be filled: {error.message}.{_fields(error)}") from error
    except ValueError as error:
        # What the harness refuses, such as a task that it has not; a ValueError of ours is a bug, and shown whole.
        if not list(_frames(error))[-1].f_globals["__name__"].startswith("lm_eval."):
            raise
        raise UserError(" ".join(str(error).split())) from error


def arguments(given: Sequence[str]) -> list[str]:
    """The harness's arguments, with the model and the folder of tasks where the user gives none."""
    if not given or given[0] in ("ls", "validate") or {"-h", "--help"} & set(given):
        return list(given)
    rest = list(given[1:] if given[0] == "run" else given)
    named = [argument.partition("=")[0] for argument in rest]
    model = [] if {"--model", "-M"} & set(named) else ["--model", interop.NAME]
    tasks = [] if "--include_path" in named else ["--include_path", str(TASKS)]
    return ["run", *model, *tasks, *rest]


def _fields(error: BaseException) -> str:
    """The fields of the record that a template was to be filled with."""
    for frame in _frames(error):
        document = frame.f_locals.get("doc")
        if isinstance(document, dict):
            return f" A record has {', '.join(map(str, document))}."
    return ""


def _frames(error: BaseException) -> Iterator[FrameType]:
    """The frames that an error has passed, the outermost first."""
    place = error.__traceback__
    while place is not None:
        yield place.tb_frame
        place = place.tb_next
