"""Laws of the gin dialect: what a command line and gin files mean, and the one sentence that each mistake gets."""

import os
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.places import ROOT

import gin
from mixlm.errors import UserError
from mixlm.gin_config import build, reader
from mixlm.gin_config.flags import Flags, parse_flags

LIBRARY = """
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from mixlm.errors import UserError


class Objective(Protocol):
    def __call__(self, batch: Any) -> Any: ...


@dataclass(frozen=True)
class Loss:
    z_loss: float = 0.0


@dataclass(frozen=True)
class Focal:
    gamma: float = 1.0


@dataclass(frozen=True)
class Spans:
    lambda1: float = 10.0
    lambda2: float = 10.0
    loss: Loss = Loss()
    lengths: tuple[int, ...] = (512, 114)
    anything: Any = None

    def __post_init__(self) -> None:
        if self.lambda1 < 0:
            raise UserError(f"lambda1 = {self.lambda1} is below 0.")

    def __call__(self, batch: Any) -> Any:
        return batch


@dataclass(frozen=True)
class Mixed:
    parts: tuple[Any, ...]

    def __call__(self, batch: Any) -> Any:
        return batch


@dataclass(frozen=True)
class Recipe:
    objective: Objective
    steps: int = 1
    folder: str = "runs"
    tau: int | None = None
    rate: float = 0.1
    resume: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    lengths: Mapping[str, int] = field(default_factory=dict)
    networks: Mapping[str, Any] = field(default_factory=dict)


def doubled(factor: int = 2) -> int:
    return 2 * factor
"""

NETWORKS = """
import flax.linen as nn
from typing import Any


class Encoder(nn.Module):
    emb_dim: int
    layers: tuple[int, ...] = (1, 2)
    dtype: Any = "float32"
"""

BASE = """
from __gin__ import dynamic_registration
from mixlm_shop import shop

TRAIN_STEPS = 300
MODEL_DIR = 'runs/base'
DTYPE = 'float32'
UNREAD = 1
shop.Recipe.steps = %TRAIN_STEPS
shop.Recipe.folder = %MODEL_DIR
shop.Recipe.dtype = %DTYPE
shop.Focal.gamma = 2.0
"""

RECIPE = """
from __gin__ import dynamic_registration
from mixlm_shop import shop
include 'base'

TAU = 100
LAMBDA = 5
shop.Recipe.tau = %TAU
shop.Recipe.objective = @shop.Spans()
shop.Spans:
    lambda1 = %LAMBDA
    lengths = [64, 16]
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """A package that gin files can import, on the path for the whole session."""
    root = tmp_path_factory.mktemp("library")
    (root / "mixlm_shop").mkdir()
    (root / "mixlm_shop" / "__init__.py").write_text("")
    (root / "mixlm_shop" / "shop.py").write_text(LIBRARY)
    (root / "mixlm_shop" / "networks.py").write_text(NETWORKS)
    (root / "mixlm_shop" / "broken.py").write_text("import no_such_dependency")
    sys.path.insert(0, str(root))
    yield root
    sys.path.remove(str(root))


@pytest.fixture
def write(library, tmp_path, monkeypatch):
    """Writes gin files into a clone's gin/ folder of our own, next to which commands run."""
    folder = tmp_path / "gin"
    folder.mkdir()
    monkeypatch.setattr(reader, "GIN_FOLDER", folder)
    monkeypatch.setattr(build, "GIN_FOLDER", folder)
    monkeypatch.chdir(tmp_path)

    def write(name, text):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))

    write("base.gin", BASE)
    write("spans.gin", RECIPE)
    return write


def shop():
    from mixlm_shop import shop

    return shop


def built(*argv):
    return build.configured(parse_flags(argv, ""), shop().Recipe)


def text(*argv):
    return build.config_text(parse_flags(argv, ""), shop().Recipe)


def sentence(*argv):
    """The one sentence that a command line is refused with."""
    with pytest.raises(UserError) as caught:
        built(*argv)
    assert type(caught.value) is UserError
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith((".", "?"))
    return str(caught.value)


def only_gin(config):
    """The value that gin alone builds from a text, without any of our code."""
    gin.clear_config()
    gin.parse_config(config)
    return gin.get_configurable(shop().Recipe)()


# Values


def test_a_recipe_is_built_from_files_that_override_each_other(write):
    write("long.gin", "TRAIN_STEPS = 9\nTAU = 8\n")
    assert built("--gin_file=spans.gin") == shop().Recipe(
        objective=shop().Spans(lambda1=5, lengths=(64, 16)), steps=300, folder="runs/base", tau=100
    )
    later = built("--gin_file=spans", "--gin_file", "long")
    assert (later.steps, later.tau) == (9, 8)
    assert built("--gin_file=long", "--gin_file=spans").steps == 300


def test_the_command_line_is_read_last_in_both_forms_and_without_quotes(write):
    recipe = built(
        "--gin_file=spans.gin", "--gin.TRAIN_STEPS=7", "--gin.MODEL_DIR", "/tmp/a run", "--gin.DTYPE=bfloat16",
        "--gin.TAU=None", "--gin.shop.Spans.lambda1=2.5e-1",
        "--gin.Spans.lambda2", "3", "--gin.Spans.loss=@shop.Loss()", "--gin.Loss.z_loss=0.1",
        "--gin.Recipe.lengths={'inputs': %TRAIN_STEPS}", "--gin.mixlm_shop.shop.Recipe.resume=True",
    )  # fmt: skip
    spans = shop().Spans(lambda1=0.25, lambda2=3, loss=shop().Loss(0.1), lengths=(64, 16))
    assert recipe == shop().Recipe(
        objective=spans, steps=7, folder="/tmp/a run", dtype="bfloat16", resume=True, lengths={"inputs": 7}
    )


def test_networks_are_plain_linen_modules(write):
    from mixlm_shop import networks

    write(
        "net.gin",
        """
        from __gin__ import dynamic_registration
        from mixlm_shop import networks
        from mixlm_shop import shop
        include 'spans.gin'
        shop.Recipe.networks = {
            'model': @networks.Encoder(),
            'generator': @small/networks.Encoder(),
        }
        networks.Encoder.emb_dim = 64
        networks.Encoder.layers = [3, 4]
        small/networks.Encoder.emb_dim = 16
        """,
    )
    first, second = built("--gin_file=net"), built("--gin_file=net")
    model = first.networks["model"]
    assert type(model) is networks.Encoder
    assert model == networks.Encoder(emb_dim=64, layers=(3, 4)) == second.networks["model"]
    assert hash(model) == hash(second.networks["model"])
    assert repr(model) == repr(networks.Encoder(emb_dim=64, layers=(3, 4)))
    assert first.networks["generator"] == networks.Encoder(emb_dim=16, layers=(3, 4))
    assert built("--gin_file=net", "--gin.Encoder.emb_dim=8").networks["generator"].emb_dim == 16
    assert built("--gin_file=net", "--gin.small/Encoder.emb_dim=8").networks["generator"].emb_dim == 8


def test_it_means_what_gin_alone_makes_of_it(write):
    config = RECIPE.replace("include 'base'", BASE.replace("from __gin__ import dynamic_registration\n", ""))
    config = config.replace("[64, 16]", "(64, 16)").replace("@shop.Spans()", "@a/b/shop.Spans()")
    config += "a/shop.Spans.lambda2 = 7\na/b/shop.Spans.loss = @shop.Loss()\nb/shop.Loss.z_loss = 1.0\n"
    config += "a/b/shop.Loss.z_loss = @shop.doubled()\na/shop.doubled.factor = 4\nshop.Recipe.rate = %RATE\n"
    config += "RATE = %OTHER\nOTHER = @shop.doubled()\nRATE/shop.doubled.factor = 5\nOTHER/shop.doubled.factor = 6\n"
    write("all.gin", config)
    recipe = built("--gin_file=all.gin")
    assert recipe == only_gin(config)
    assert (recipe.objective.loss.z_loss, recipe.objective.lambda2, recipe.rate) == (8, 7, 12)


def test_the_printed_config_is_gin_and_means_the_same(write):
    long_value = "--gin.Spans.anything=" + repr([{"name": "words " * 40}, ("a", 1.5), None, True, ()])
    argv = ("--gin_file=spans.gin", "--gin.TAU=7", long_value, '--gin.MODEL_DIR=it\'s "here" \\ ')
    printed = text(*argv)
    assert only_gin(printed) == built(*argv)
    write("printed.gin", printed)
    assert text("--gin_file=printed.gin") == printed
    assert printed.index("TAU = 7") < printed.index("shop.Recipe.tau = %TAU")
    assert max(map(len, printed.splitlines())) <= 120


def test_the_operative_config_builds_the_same_recipe(write):
    recipe = built("--gin_file=spans.gin", "--gin.Spans.loss=@shop.Loss()")
    operative = build.operative_config()
    assert "shop.Recipe.rate = 0.1" in operative and "Focal" not in operative
    assert only_gin(operative) == recipe


def test_equal_last_names_of_two_modules_are_kept_apart(write, library):
    (library / "mixlm_shop" / "other").mkdir(exist_ok=True)
    (library / "mixlm_shop" / "other" / "__init__.py").write_text("")
    (library / "mixlm_shop" / "other" / "shop.py").write_text(LIBRARY)
    write(
        "two.gin",
        """
        from __gin__ import dynamic_registration
        from mixlm_shop.other import shop
        import mixlm_shop.shop
        mixlm_shop.shop.Recipe.objective = @shop.Spans()
        shop.Spans.lambda1 = 3
        """,
    )
    objective = built("--gin_file=two").objective
    assert type(objective).__module__ == "mixlm_shop.other.shop" and objective.lambda1 == 3
    assert "'Recipe' could be" not in text("--gin_file=two")
    write("both.gin", "include 'two'\nfrom mixlm_shop import shop\nshop.Spans.lambda1 = 4\n")
    assert sentence("--gin_file=both", "--gin.Spans.lambda1=5") == (
        "--gin.Spans.lambda1: 'Spans' could be mixlm_shop.other.shop.Spans or mixlm_shop.shop.Spans."
    )
    assert built("--gin_file=both", "--gin.shop.Spans.lambda1=5").objective.lambda1 == 5


def test_files_are_found_by_name_and_the_working_directory_comes_first(write, tmp_path):
    write("models/small.gin", "TRAIN_STEPS = 1\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "small.gin").write_text("TRAIN_STEPS = 2\n")
    searching = "--gin_search_paths=mine,gin/models"
    assert built("--gin_file=spans", "--gin_file=models/small").steps == 1
    assert built("--gin_file=spans", searching, "--gin_file=small").steps == 2
    (tmp_path / "small.gin").write_text("TRAIN_STEPS = 3\n")
    assert built("--gin_file=spans", searching, "--gin_file=small.gin").steps == 3
    write("with_include.gin", "include 'spans'\ninclude 'small.gin'\n")
    assert built(searching, "--gin_file=with_include").steps == 3


literals = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def tuples_for_lists(value):
    if isinstance(value, dict):
        return {key: tuples_for_lists(entry) for key, entry in value.items()}
    return tuple(map(tuples_for_lists, value)) if isinstance(value, list) else value


RECIPE_ALONE = """
from __gin__ import dynamic_registration
from mixlm_shop import shop
shop.Recipe.objective = @shop.Spans()
"""


@pytest.fixture(scope="session")
def alone(library):
    (library / "alone.gin").write_text(RECIPE_ALONE)
    return f"--gin_file={library / 'alone.gin'}"


@given(value=literals)
def test_every_literal_arrives_with_tuples_for_lists(alone, value):
    arrived = built(alone, f"--gin.Spans.anything={value!r}").objective.anything
    assert repr(arrived) == repr(tuples_for_lists(value))


@given(value=st.text())
def test_a_path_arrives_as_it_is_typed(alone, value):
    assert built(alone, f"--gin.Recipe.folder=/{value}").folder == f"/{value}"


@pytest.mark.parametrize("typed", ["3#2", "+5", "1, 2", "b'x'", "5e", "true", "2026-11-21", "it's"])
def test_what_is_no_gin_value_is_text(alone, typed):
    assert built(alone, f"--gin.Spans.anything={typed}").objective.anything == typed


def test_a_number_is_text_where_text_is_due(alone):
    assert built(alone, "--gin.Recipe.folder=2026_11").folder == "2026_11"
    assert built(alone, "--gin.Recipe.folder=3#2").folder == "3#2"


# Mistakes


def test_a_misspelt_file_is_named_with_the_nearest(write, tmp_path):
    said = sentence("--gin_file=spnas.gin")
    assert "'spnas.gin'" in said and "Did you mean 'spans.gin'?" in said and str(tmp_path / "gin") in said
    write("scale/spans_base.gin", "")
    assert "Did you mean 'scale/spans_base.gin'?" in sentence("--gin_file=spans_base", "--gin_file=scale/spans_bas")
    write("bad.gin", "include 'bse.gin'")
    assert sentence("--gin_file=bad").startswith("bad.gin, line 1: There is no gin file 'bse.gin'")
    assert "'nowhere' is not a folder" in sentence("--gin_file=spans", "--gin_search_paths=nowhere")


def test_without_a_recipe_the_recipes_are_listed(write):
    assert sentence() == "Which recipe? Name one with --gin_file=NAME: spans.gin."
    said = sentence("--gin_file=base.gin")
    assert said == "base.gin is no recipe: it gives shop.Recipe no 'objective'; recipes are spans.gin."


@pytest.mark.parametrize(
    ("binding", "said"),
    [
        ("TAUU=3", "--gin.TAUU: the gin files have no macro 'TAUU'. Did you mean 'TAU'?"),
        ("Spnas.lambda1=3", "--gin.Spnas.lambda1: the gin files mention no class 'Spnas'. Did you mean 'Spans'?"),
        ("shop.Spnas.lambda1=3", "--gin.shop.Spnas.lambda1: mixlm_shop.shop has no 'Spnas'. Did you mean 'Spans'?"),
        ("Spans.lamda1=3", "--gin.Spans.lamda1: shop.Spans has no parameter 'lamda1'. Did you mean 'lambda1'?"),
        ("Recipe.tau=%TUA", "--gin.Recipe.tau: shop.Recipe.tau reads %TUA, which has no value: "
                            "give it with --gin.TUA=value. Did you mean 'TAU'?"),
        ("Spans.loss=@shop.Los()", "--gin.Spans.loss: mixlm_shop.shop has no 'Los'. Did you mean 'Loss'?"),
        ("Spans.lengths=[1, 2", "--gin.Spans.lengths: gin cannot read '[1, 2' as the value of 'Spans.lengths'."),
        ("Focal.gamma=3", "--gin.Focal.gamma has no effect: this recipe never builds shop.Focal."),
        ("small/Spans.lambda1=3", "--gin.small/Spans.lambda1 has no effect: "
                                  "this recipe builds shop.Spans in no scope 'small'."),
        ("UNREAD=3", "--gin.UNREAD has no effect: nothing in this recipe reads %UNREAD."),
        ("TAU=%TAU", "--gin.TAU: the macro TAU reads itself."),
        ("Spans.anything=@shop.Spans()", "Building shop.Spans needs another shop.Spans without end."),
        ("LAMBDA=-1", "lambda1 = -1 is below 0."),
    ],
)  # fmt: skip
def test_a_mistake_on_the_command_line_gets_one_sentence(write, binding, said):
    assert sentence("--gin_file=spans.gin", f"--gin.{binding}") == said


def test_a_value_that_scopes_override_is_refused(write):
    scoped = (
        RECIPE.replace("@shop.Spans()", "@shop.Mixed()")
        + """
shop.Mixed.parts = (@first/shop.Spans(), @second/shop.Spans())
first/shop.Spans.lambda2 = 1
second/shop.Spans.lambda2 = 2
"""
    )
    write("scoped.gin", scoped)
    assert sentence("--gin_file=scoped", "--gin.Spans.lambda2=5") == (
        "--gin.Spans.lambda2 has no effect: "
        "this recipe gives it as first/shop.Spans.lambda2 and second/shop.Spans.lambda2."
    )
    assert [part.lambda1 for part in built("--gin_file=scoped", "--gin.Spans.lambda1=3").objective.parts] == [3, 3]
    parts = built("--gin_file=scoped", "--gin.first/Spans.lambda2=3").objective.parts
    assert [part.lambda2 for part in parts] == [3, 2]


def test_a_value_that_is_still_to_be_given_is_asked_for(write):
    write("open.gin", RECIPE.replace("TAU = 100", "TAU = %gin.REQUIRED"))
    assert sentence("--gin_file=open") == (
        "TAU (open.gin, line 6, read by shop.Recipe.tau) has no value yet: give it with --gin.TAU=value."
    )
    assert built("--gin_file=open", "--gin.TAU=4").tau == 4
    write("lacking.gin", RECIPE.replace("@shop.Spans()", "@shop.Mixed()"))
    assert sentence("--gin_file=lacking") == "@shop.Mixed() has no 'parts': give it with --gin.shop.Mixed.parts=value."


@pytest.mark.parametrize(
    ("binding", "said"),
    [
        ("TRAIN_STEPS=abc", "TRAIN_STEPS (--gin.TRAIN_STEPS, read by shop.Recipe.steps) "
                            "must be a whole number, got 'abc'."),
        ("TAU=1.5", "TAU (--gin.TAU, read by shop.Recipe.tau) must be a whole number or None, got 1.5."),
        ("Recipe.rate=True", "shop.Recipe.rate (--gin.Recipe.rate) must be a number, got True."),
        ("Recipe.resume=true", "shop.Recipe.resume (--gin.Recipe.resume) must be True or False, got 'true'."),
        ("DTYPE=float", "DTYPE (--gin.DTYPE, read by shop.Recipe.dtype) must be 'float32' or 'bfloat16', got 'float'."),
        ("Recipe.folder=None", "shop.Recipe.folder (--gin.Recipe.folder) must be text, got None."),
        ("Spans.lengths=4", "shop.Spans.lengths (--gin.Spans.lengths) "
                            "must be a tuple of entries, each a whole number, got 4."),
        ("Spans.loss=@shop.Focal()", "shop.Spans.loss (--gin.Spans.loss) must be a Loss (written @module.Class()), "
                                     "got @shop.Focal()."),
        ("Spans.loss=@shop.Loss", "shop.Spans.loss (--gin.Spans.loss) must be a Loss (written @module.Class()), "
                                  "got @shop.Loss."),
        ("Recipe.objective=spans", "shop.Recipe.objective (--gin.Recipe.objective) must be an Objective "
                                   "(written @module.Class()), got 'spans'."),
        ("Recipe.lengths={'a': 'b'}", "shop.Recipe.lengths (--gin.Recipe.lengths) must be a dict of text to a whole "
                                      "number, got {'a': 'b'}."),
        ("Recipe.networks=3", "shop.Recipe.networks (--gin.Recipe.networks) must be a dict of text to any value, "
                              "got 3."),
        ("Recipe.steps=@shop.Loss()", "shop.Recipe.steps (--gin.Recipe.steps) must be a whole number, "
                                      "got @shop.Loss()."),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_type_is_named_where_it_was_given(write, binding, said):
    assert sentence("--gin_file=spans.gin", f"--gin.{binding}") == said


def test_a_macro_of_a_user_s_file_is_read_or_one_of_mixlm(write, tmp_path):
    mine = tmp_path / "mine.gin"
    mine.write_text("TAU = %OWN\nUNREAD = 2\nOWN = 5\n")
    assert built("--gin_file=spans", f"--gin_file={mine}").tau == 5
    mine.write_text("TUA = 5\n")
    said = sentence("--gin_file=spans", f"--gin_file={mine}")
    assert said == f"{mine}, line 1: nothing reads a macro 'TUA'. Did you mean 'TAU'?"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("lambda1 = %LAMBDA", "lamda1 = 3", "line 11: shop.Spans has no parameter 'lamda1'. Did you mean 'lambda1'?"),
        ("lambda1 = %LAMBDA", "lambda1 = %LAMBD", "line 11: shop.Spans.lambda1 reads %LAMBD, which has no value: "
                                                  "give it with --gin.LAMBD=value. Did you mean 'LAMBDA'?"),
        ("lambda1 = %LAMBDA", "lambda1 = 'ten'", "(bad.gin, line 11) must be a number, got 'ten'."),
        ("lambda1 = %LAMBDA", "lambda1 = ten", "line 11: gin cannot read 'lambda1 = ten'"),
        ("TAU = 100", "TAU 100", "line 6: gin cannot read 'TAU 100' (Couldn't parse statement, expected ':' or '=')."),
        ("[64, 16]", "[64, 16", "line 12: a bracket or a quote before here is not closed."),
        ("[64, 16]", "{[1]: 2}", "a key in it is no key"),
        ("@shop.Spans()", "{'a': 1,\n 'b': @shop.Spnas()}",
         "line 10: mixlm_shop.shop has no 'Spnas'. Did you mean 'Spans'?"),
        ("@shop.Spans()", "@shp.Spans()",
         "line 9: 'shp' of 'shp.Spans' is not imported in this file. Did you mean 'shop'?"),
        ("shop.Spans:", "shop.Spnas:", "line 10: mixlm_shop.shop has no 'Spnas'. Did you mean 'Spans'?"),
        ("import shop", "import shpo", "line 3: there is no module 'mixlm_shop.shpo'. Did you mean 'shop'?"),
        ("from mixlm_shop", "from mixlm_shpo", "line 3: there is no module 'mixlm_shpo.shop'"),
        ("import shop", "import shop\nfrom mixlm_shop.shop import Spans",
         "line 4: there is no module 'mixlm_shop.shop.Spans'. "
         "'mixlm_shop.shop' is a module: import it, and write shop.Spans."),
        ("include 'base'", "include 'bad'", "line 4: including 'bad' here never ends, it includes this file."),
        ("include 'base'", "include base", "line 4: gin cannot read 'include base'"),
        ("@shop.Spans()", "@shop.__doc__()", "line 9: 'shop.__doc__' is no class or function."),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file_is_named_with_its_line(write, old, new, said):
    assert old in RECIPE
    write("bad.gin", RECIPE.replace(old, new))
    shown = sentence("--gin_file=bad.gin")
    assert said in shown and "bad.gin" in shown


def test_a_file_that_is_no_text_is_refused(write, tmp_path):
    (tmp_path / "gin" / "latin.gin").write_bytes("# caf\xe9\n".encode("latin-1"))
    said = "latin.gin is not UTF-8: byte 5 (0xe9) begins no character; convert it first."
    assert sentence("--gin_file=latin") == said


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lines_of_a_file_end_as_any_system_writes_them(write, tmp_path, end, mark):
    wanted = text("--gin_file=spans.gin")
    for path in (tmp_path / "gin").glob("*.gin"):
        path.write_bytes((mark + path.read_text().replace("\n", end)).encode())
    assert text("--gin_file=spans.gin") == wanted


def test_a_line_separator_in_a_string_ends_no_line(write):
    write("own.gin", "NAME = 'a\u2028b\x85c'  # \u2028 \x0b\n")
    assert "NAME = 'a\\u2028b\\x85c'" in text("--gin_file=spans", "--gin_file=own", "--gin.Spans.anything=%NAME")


def test_only_a_regular_file_of_some_size_is_read(write, tmp_path):
    os.mkfifo(tmp_path / "pipe.gin")
    assert sentence("--gin_file=pipe") == "'pipe.gin' is a pipe, and only regular files are read."
    assert sentence("--gin_file=/dev/zero") == "'/dev/zero' is a device, and only regular files are read."
    (tmp_path / "folder").mkdir()
    assert sentence("--gin_file=folder") == "'folder' is a folder, and only regular files are read."
    # A folder of that name does not hide a recipe.
    (tmp_path / "spans").mkdir()
    assert text("--gin_file=spans") == text("--gin_file=spans.gin")
    (tmp_path / "long.gin").write_text("#" * (reader.LARGEST_FILE + 1))
    assert sentence("--gin_file=long").startswith("'long.gin' has more than 1,048,576 bytes")
    (tmp_path / "nul.gin").write_text("# a\n#\0")
    assert sentence("--gin_file=nul").startswith("nul.gin holds a NUL character at byte 5 in line 2")
    assert sentence("--gin_file=" + "x" * 300).startswith("The gin file 'xxx")


def test_a_value_that_is_nested_too_deep_is_one_sentence(write):
    for value in ("[" * 9999, "[" * 9999 + "]" * 9999, "{1: " * 9999 + "}" * 9999):
        said = sentence("--gin_file=spans.gin", f"--gin.Spans.anything={value}")
        assert said.startswith("--gin.Spans.anything: gin cannot read ") and len(said) < 400
    write("deep.gin", "TAU = " + "[" * 9999 + "]" * 9999)
    assert sentence("--gin_file=spans.gin", "--gin_file=deep") == (
        "deep.gin holds a value that is nested too deep to be read."
    )
    deep: list = []
    for _ in range(9999):
        deep = [deep]
    with pytest.raises(UserError, match=r"^--gin\.Spans\.anything is nested too deep to be written as gin\.$"):
        build.configured(Flags(("spans.gin",), values=(("Spans.anything", deep),)), shop().Recipe)


def test_a_long_value_is_cut_in_its_sentence(write):
    said = sentence("--gin_file=spans.gin", f"--gin.TRAIN_STEPS={'9' * 5000}")
    assert "must be a whole number, got '999" in said and len(said) < 400


def test_a_library_that_is_missing_keeps_its_own_error(write):
    write("needs.gin", RECIPE.replace("import shop", "import shop\nfrom mixlm_shop import broken"))
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        built("--gin_file=needs")


# As a program


SCRIPT = """
import sys
from pathlib import Path
from mixlm.gin_config import reader
from mixlm.gin_config.flags import parse_flags, run_or_explain_error
from mixlm.gin_config.build import config_text, configured
from mixlm_shop import shop

reader.GIN_FOLDER = Path()

def main():
    flags = parse_flags(sys.argv[1:], "Sells.")
    print(config_text(flags, shop.Recipe) if flags.print_config else configured(flags, shop.Recipe))


run_or_explain_error(main)
assert "tensorflow" not in sys.modules and "jax" not in sys.modules
"""


def test_a_script_prints_one_line_and_exits_with_2(write, library, tmp_path):
    (tmp_path / "sell.py").write_text(SCRIPT)

    def ran(*argv):
        command = [sys.executable, str(tmp_path / "sell.py"), *argv]
        path = f"{library}:{ROOT}"
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path / "gin", env={"PYTHONPATH": path})

    good = ran("--gin_file=spans.gin", "--gin.TAU=5")
    assert (good.returncode, good.stderr) == (0, "") and "tau=5" in good.stdout
    assert "TAU = 5" in ran("--gin_file=spans", "--gin.TAU=5", "--print_config").stdout
    for argv in (
        (), ("--gin_file=spnas",), ("--gin_file=spans", "--gin.TAUU=1"), ("--gin_file=spans", "--gin.Spans.lamda1=1"),
        ("--gin_file=spans", "--gin.TRAIN_STEPS=abc"), ("--gin_file=spans", "--gin.LAMBDA=-1"), ("--gin_fle=spans",),
    ):  # fmt: skip
        bad = ran(*argv)
        assert bad.returncode == 2 and bad.stdout == ""
        assert bad.stderr.startswith("error: ") and bad.stderr.count("\n") == 1
