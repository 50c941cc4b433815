"""Reads gin files and command-line bindings into a Program, so that mistakes are reported with place and nearest name.

gin's own parser reads the text, and names are resolved by gin's rules for dynamic registration: each file has its own
imports. On the command line, any unambiguous suffix names a class.
"""

import inspect
import os
import tokenize
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from gin import config_parser
from mixlm import files
from mixlm.checkpoints.run_dir import held_out_by_name
from mixlm.data.mixture import of_texts
from mixlm.data.sources.kinds import is_builtin, kind_of
from mixlm.data.sources.text import TextFiles
from mixlm.data.vocabularies.kept import stand_in
from mixlm.errors import UserError, nearest
from mixlm.gin_config.folder import gin_folder, studies_folder
from mixlm.gin_config.names import Names, import_module, mentioned, resolved
from mixlm.gin_config.program import Binding, Macro, Program, Target, check_macros, contained, parameters
from mixlm.gin_config.values import as_gin, shortened
from mixlm.paths import RunRef, local

GIN_FOLDER, STUDIES = gin_folder(), studies_folder()
LARGEST_FILE = 2**20  # Bytes. Ours: recipes have a few thousand.


def find(name: str, places: tuple[Path, ...]) -> Path:
    """Returns the first of `places` that has the gin file `name` (its ending may be left out), or raises UserError."""
    name = str(local(name, "The gin file"))
    candidates = [candidate for place in places for candidate in (place / name, place / f"{name}.gin")]
    if len(parts := Path(name).parts) == 2 and parts[0] == STUDIES.name:
        candidates += [STUDIES / parts[1], STUDIES / f"{parts[1]}.gin"]
    for candidate in candidates:
        if os.path.isfile(candidate):
            return candidate
    for candidate in filter(os.path.exists, candidates):
        files.open_regular(candidate)  # raises, and says what it is instead
    known = [path.name for path in Path().glob("*.gin")]
    for place in places[1:]:
        known += [path.relative_to(place).as_posix() for path in sorted(place.rglob("*.gin"))]
    known += [f"{STUDIES.name}/{path.name}" for path in STUDIES.glob("*.gin")]
    looked = ", ".join(str(place.absolute()) for place in places)
    hint = nearest(f"{name.removesuffix('.gin')}.gin", known)
    raise UserError(f"There is no gin file {name!r} in {looked}.{hint}")


def read(
    gin_files: Sequence[str],
    search_paths: Sequence[str],
    bindings: Sequence[str],
    text: str | None = None,
    recipe: int = 0,
    values: Sequence[tuple[str, Any]] = (),
) -> Program:
    """Reads files, bindings and Python values, each found and resolved; raises UserError for the first mistake.

    `text` is a path to train on; the gin file that reads its kind comes right after the recipe, which is file number
    `recipe`, so that files after it keep their say.
    """
    for path in search_paths:
        if not local(path, "--gin_search_paths").is_dir():
            raise UserError(f"The gin search path {path!r} is not a folder.")
    places = (Path(), *(local(path) for path in search_paths), GIN_FOLDER)
    program = _read_files(gin_files, places)
    if (config := _config_of_run(program, gin_files, bindings, values)) is not None:
        # Behind a command's own files, which come before the recipe: it is the recipe.
        gin_files = [*gin_files[:recipe], config, *gin_files[recipe:]]
        program = _read_files(gin_files, places)
    if text is not None:
        added, own = _text_bindings(text, bindings, program)
        bindings = [*own, *bindings]
        program = _read_files([*gin_files[: recipe + 1], *added, *gin_files[recipe + 1 :]], places)
    declared = set(program.macros)
    for binding in bindings:
        _read_binding(program, binding)
    for name, value in values:
        _read_value(program, name, value)
    _take_kept_vocabulary(program, [find(name, places) for name in gin_files])
    check_macros(program, declared, GIN_FOLDER)
    return program


def bound_to(gin_files: Sequence[str], search_paths: Sequence[str], kind: type) -> dict[str, Any]:
    """What the files bind to the parameters of a class, whether they are a recipe or not; {} where they bind none."""
    program = _read_files(gin_files, (Path(), *map(local, search_paths), GIN_FOLDER))
    bound = program.bindings.get(("", program.target(kind, kind.__module__, kind.__qualname__)), {})
    return {name: program.resolved(binding.value) for name, binding in bound.items()}


def _read_files(gin_files: Sequence[str], places: tuple[Path, ...]) -> Program:
    program = Program()
    for name in gin_files:
        _read_file(program, find(name, places), places, ())
    return program


def _take_kept_vocabulary(program: Program, read_files: Sequence[Path]) -> None:
    """Lets VOCAB_MODEL name the copy in a run's folder, beside one of the files, where its own file has gone."""
    held = program.macros.get("VOCAB_MODEL")
    if held is None or not isinstance(held.value, str):
        return
    for path in read_files:
        if (copy := stand_in(held.value, path.parent)) is not None:
            program.macros["VOCAB_MODEL"] = replace(held, value=str(copy))


def _config_of_run(
    program: Program, gin_files: Sequence[str], bindings: Sequence[str], values: Sequence[tuple[str, Any]]
) -> str | None:
    """The config.gin of the run in INIT_FROM, where the files ask for NETWORKS and leave them to that run."""
    asked = any(Macro("NETWORKS") in contained(each.value) for _, each in program.every_binding())
    if not asked or "NETWORKS" in program.macros:
        return None
    held = program.macros.get("INIT_FROM")
    texts = [text.partition(" = ")[2] for text in bindings if text.startswith("INIT_FROM = ")]
    given = [statement_of(program, "INIT_FROM", text).value for text in texts]
    given += [value for name, value in values if name == "INIT_FROM"]
    source = [*([] if held is None else [held.value]), *given][-1:]
    if not source or source[0] is None:
        raise UserError(
            f"{' with '.join(gin_files)} trains the network of a run: name it with --gin.INIT_FROM=RUN, or put a "
            "recipe before it, such as --gin_file=dual.gin, to begin from scratch."
        )
    folder = RunRef.parse(str(source[0]), "INIT_FROM").folder
    if not (folder / "config.gin").is_file():
        runs = [str(path.parent) for path in folder.parent.glob("*/config.gin")]
        raise UserError(
            f"INIT_FROM = {source[0]!r} is no run's folder (it has no config.gin), so its network is unknown: put its "
            f"recipe before {gin_files[-1]}.{nearest(str(folder), runs)}"
        )
    return str((folder / "config.gin").absolute())


def _text_bindings(text: str, bindings: Sequence[str], program: Program) -> tuple[list[str], list[str]]:
    """The gin file and the bindings that `--text` stands for; that of a kind from outside of mixlm is there already.

    `program` is what the other files say: such a kind is known only once they have been read.
    """
    if any(binding.startswith("TEXT = ") for binding in bindings):
        raise UserError("--text and --gin.TEXT both name a text: give one of them.")
    kind = kind_of(text)
    name = f"{kind.__module__}.{kind.__qualname__}"
    own = [f"TEXT = {text!r}", f"TextTask.source = @{name}()"]
    if not is_builtin(kind):
        if name not in [f"{target.module}.{target.path}" for target in program.mentioned]:
            raise UserError(f"{text!r} is read by {name}, which no gin file here names: add its --gin_file.")
        return [], own
    return [str(GIN_FOLDER / "data" / f"{kind.kind()}.gin")], [*own, f"MIXTURE_OR_TASK_NAME = {kind.kind()!r}"]


def _read_file(program: Program, path: Path, places: tuple[Path, ...], within: tuple[Path, ...]) -> None:
    shown = str(path.relative_to(GIN_FOLDER) if path.is_relative_to(GIN_FOLDER) else path)
    symbols: dict[str, Any] = {}
    # A run's own config.gin: 0.4.3 wrote its module names into it.
    of_run = path.name == "config.gin" and (path.parent / "recipe.json").is_file()

    def resolve(selector: str) -> Target:
        return resolved(program, symbols, selector)

    lines = files.split_lines(files.decode(files.read_bytes(path, LARGEST_FILE), shown))
    for statement, where in _statements(lines, shown, Names(resolve)):
        with placed(where):
            if isinstance(statement, config_parser.ImportStatement):
                import_module(symbols, statement, of_run)
            elif isinstance(statement, config_parser.BlockDeclaration):
                resolve(statement.selector)
            elif isinstance(statement, config_parser.BindingStatement):
                bind(program, statement, Binding(statement.value, where), resolve)
            else:
                included = find(statement.filename, places)
                if included.resolve() in (*within, path.resolve()):
                    raise UserError(f"including {statement.filename!r} here never ends, it includes this file.")
        if isinstance(statement, config_parser.IncludeStatement):
            _read_file(program, included, places, (*within, path.resolve()))
    program.symbols.update(symbols)
    if of_run:
        program.recorded |= program.macros.keys()
    if of_run and held_out_by_name(path.parent):
        _hold_out_by_name(program, shown)


def _hold_out_by_name(program: Program, shown: str) -> None:
    """Binds the split of text as versions before 0.6.0 made it, for what a run's own record binds."""
    for (_, target), values in program.bindings.items():
        own = any(binding.where.startswith(f"{shown}, line") for binding in values.values())
        if own and target.value in (TextFiles, of_texts):
            values["hold_out_by"] = Binding("name", shown)


def _statements(lines: list[str], shown: str, names: Names) -> Iterator[tuple[Any, str]]:
    """Yields a file's statements, each with its place; raises UserError where gin's parser cannot go on."""
    try:
        parser = config_parser.ConfigParser("\n".join([*lines, ""]), names)
        while statement := parser.parse_statement():
            yield statement, f"{shown}, line {statement.location.line_num}"
    except SyntaxError as error:
        reason = str(error.msg).splitlines()[0].rstrip(".")
        text = (error.text or "").strip()
        raise UserError(f"{shown}, line {error.lineno}: gin cannot read {text!r} ({reason}).") from None
    except tokenize.TokenError as error:
        if "too many nested" in str(error.args[0]):  # by Python 3.12 and later
            raise UserError(f"{shown} holds a value that is nested too deep to be read.") from None
        # Python 3.11 counts the end of the file as a line of its own, later versions do not.
        line = min(error.args[1][0], len(lines))
        raise UserError(f"{shown}, line {line}: a bracket or a quote before here is not closed.") from None
    except TypeError as error:
        raise UserError(f"{shown}: gin cannot read a dict, for a key in it is no key ({error}).") from None
    except (RecursionError, MemoryError):
        raise UserError(f"{shown} holds a value that is nested too deep to be read.") from None
    except UserError as error:
        # gin's parser met a reference that does not resolve, and appended the place to the sentence.
        sentence, place = str(error).splitlines()[:2]
        raise UserError(f"{shown}, line {place.rpartition(' ')[2]}: {sentence}") from None


@contextmanager
def placed(where: str) -> Iterator[None]:
    """Prefixes the message of a UserError with the place."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {str(error).splitlines()[0]}") from None


def _read_binding(program: Program, text: str) -> None:
    """Reads `NAME = value` of the command line, where any unambiguous suffix names a class."""
    name, _, value = text.partition(" = ")
    where = f"--gin.{name}"
    with placed(where):
        statement = statement_of(program, name, value)
        bind(program, statement, Binding(statement.value, where, typed=value, given=True), partial(mentioned, program))


def _read_value(program: Program, name: str, value: Any) -> None:
    """Binds a Python value to what `--gin.NAME` would bind."""
    where = f"--gin.{name}"
    try:
        with placed(where):
            statement = statement_of(program, name, "None", repr(value))
            # The name first: a misspelt one is the likelier mistake.
            bind(program, statement, Binding(None, where, given=True), partial(mentioned, program))
        binding = Binding(as_gin(program, value, where), where, given=True)
    except RecursionError:
        raise UserError(f"{where} is nested too deep to be written as gin.") from None
    bind(program, statement, binding, partial(mentioned, program))


def statement_of(program: Program, name: str, value: str, shown: str | None = None) -> Any:
    """Parses `name = value`; raises UserError with `shown`, by default the value itself."""
    try:
        statement, *others = config_parser.ConfigParser(f"{name} = {value}", Names(partial(mentioned, program)))
        if others:
            raise SyntaxError("more than one statement")
    except (SyntaxError, tokenize.TokenError, TypeError, RecursionError, MemoryError):
        text = shortened(value if shown is None else shown)
        raise UserError(f"gin cannot read {text!r} as the value of {name!r}.") from None
    return statement


def bind(program: Program, statement: Any, binding: Binding, resolve: Callable[[str], Target]) -> None:
    """Binds the macro or parameter that a statement names; `resolve` finds the parameter's class."""
    scope, selector, name = statement.scope, statement.selector, statement.arg_name
    if not name:
        program.macros[f"{scope}/{selector}".lstrip("/")] = binding
        return
    target = resolve(selector)
    known = parameters(target.value)
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values())
    if name not in known and not takes_any:
        raise UserError(f"{target} has no parameter {name!r}.{nearest(name, known)}")
    program.bindings.setdefault((scope, target), {})[name] = binding
