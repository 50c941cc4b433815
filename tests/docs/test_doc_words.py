"""What README and docs name exists: linked files and sections, paths, modules, macros, scoring modes, flags."""

import importlib
import re
from dataclasses import fields

import pytest
from support.markdown import PAGES, blocks, prose
from support.places import GIN, ROOT

from mixlm.decoding.strategies import STRATEGIES
from mixlm.evaluation.modes import modes_of
from mixlm.models.t5 import EncoderDecoder
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.tokens import TokenIds

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=IDS)

# In a run's folder, or the reader's own.
ELSEWHERE = {
    "axis/MACRO",
    "study.json",
    "config.gin",
    "config.json",
    "network.gin",
    "figures.json",
    "results.json",
    "modeling_mixlm.py",
    "RUN/REVISION/zero_shot/BACKEND/...",
    "tokenizer.json",
    "recipe.json",
    "metrics.jsonl",
    "trackers.json",
    "journal.jsonl",
    "names.json",
    "examples.jsonl",
    "report.html",
    "curves.png",
    "samples.txt",
    "runs/",
    "runs/dual",
    "runs/llama",
    "runs/t5_1_1",
    "runs/first",
}
ELSEWHERE |= {"checkpoints/", "evaluation/", "evaluation/latest", "profile/", "tensorboard/", "my_texts/", "build/site"}
ELSEWHERE |= {"runs/studies/mile-GAMMA", "runs/studies/NAME", "study.json", "records/", "stems/"}
ELSEWHERE |= {"predictions/step_N/TASK.jsonl", "TASK/METRIC", "validation/", "predictions/"}
ELSEWHERE |= {"evaluation/NAME/MODE/FIGURE", "evaluation@best/...", "axis/MACRO"}
# Upper-case words that are no macros: placeholders, signals, variables of the environment.
NO_MACROS = {
    "MIXLM_CACHE",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "RUN",
    "STEP",
    "SIGINT",
    "SIGTERM",
    "NAME",
    "BOS",
    "UserError",
}
MACROS = {name for path in GIN.rglob("*.gin") for name in re.findall(r"^([A-Z][A-Z0-9_]+) = ", path.read_text(), re.M)}
ROOMS = "|".join(path.stem for path in (ROOT / "mixlm").iterdir())


def slug(heading):
    """The anchor of a heading, as GitHub and the site make it."""
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.strip().lower()))


def anchors(page):
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", prose(page), re.M)}


@EVERY_PAGE
def test_links_lead_somewhere(page):
    for target in LINK.findall(prose(page)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        place = (page.parent / name).resolve() if name else page
        assert place.exists(), f"{page.name} links {target}"
        if anchor:
            assert anchor in anchors(place), (
                f"{page.name} links {target}, and {place.name} has {sorted(anchors(place))}"
            )


@EVERY_PAGE
def test_links_of_the_site_stay_in_it(page):
    if page.is_relative_to(ROOT / "docs"):
        for target in LINK.findall(prose(page)):
            assert target.startswith("https://") or (page.parent / target).resolve().is_relative_to(ROOT / "docs")


@EVERY_PAGE
def test_paths_exist(page):
    for span in SPAN.findall(prose(page)):
        if not re.fullmatch(r"[\w.*-]+(/[\w.*-]*)*", span) or span in ELSEWHERE:
            continue
        if "/" not in span and not span.endswith((".py", ".gin", ".md", ".json", ".toml")):
            continue
        bases = (ROOT, GIN, ROOT / "mixlm", page.parent)
        assert any(list(base.glob(span.rstrip("/"))) for base in bases), f"{page.name} names {span}"


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "benchmarks").glob("*.md"))], ids=lambda page: page.name)
def test_modules_exist(page):
    names = set(re.findall(r"\bmixlm(?:\.\w+)+", page.read_text()))
    names |= {
        f"mixlm.{span}" for span in SPAN.findall(prose(page)) if re.fullmatch(rf"({ROOMS})(\.(?!json|gin)\w+)+", span)
    }
    for name in names:
        assert found(name), f"{page.name} names {name}"


def found(name):
    """Whether a dotted name is a module, or an attribute of one."""
    parts, attributes = name.split("."), []
    while parts:
        try:
            value = importlib.import_module(".".join(parts))
        except ModuleNotFoundError:
            attributes.insert(0, parts.pop())
            continue
        for attribute in attributes:
            if not hasattr(value, attribute):
                return False
            value = getattr(value, attribute)
        return True
    return False


def test_a_wrong_module_is_seen():
    assert found("mixlm.losses.score.score") and not found("mixlm.losses.scores") and not found("mixlm.recipe.Recipy")


@EVERY_PAGE
def test_macros_exist(page):
    for span in SPAN.findall(prose(page)):
        name = span.partition(" = ")[0]
        if re.fullmatch(r"[A-Z][A-Z0-9_]{2,}", name) and name not in NO_MACROS:
            own = re.findall(r"^([A-Z][A-Z0-9_]+) = ", page.read_text(), re.M)  # of a gin file on the page
            assert name in MACROS.union(own), f"{page.name} names the macro {name}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 170


def test_recipes_have_the_knobs_that_are_named():
    rows = re.findall(r"^\| `(\w+\.gin)` \|.*\| ([^|]+) \|$", (ROOT / "docs" / "recipes.md").read_text(), re.M)
    recipes = {path.name for path in GIN.glob("*.gin") if "\nRECIPE = " in path.read_text()}
    assert {name for name, _ in rows} == recipes
    for name, knobs in rows:
        for knob in SPAN.findall(knobs):
            assert knob in read_macros(name), f"{name} has no {knob}"


def read_macros(name):
    """The macros of a gin file and of those that it includes."""
    text = (GIN / name).read_text()
    own = set(re.findall(r"^([A-Z][A-Z0-9_]+) = ", text, re.M))
    return own.union(*map(read_macros, re.findall(r"^include '(.+)'$", text, re.M)))


def test_gin_files_of_each_folder_are_named():
    rows = dict(re.findall(r"^\| `gin/(\w+)` \| (.+) \|$", (ROOT / "docs" / "configuration.md").read_text(), re.M))
    assert set(rows) == {path.name for path in GIN.iterdir() if path.is_dir()}
    for folder, files in rows.items():
        for name in SPAN.findall(files):
            assert list((GIN / folder).glob(f"{name}.gin")), f"gin/{folder} has no {name}"


def test_every_page_is_in_the_navigation():
    config = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES[2:]:
        assert f": {page.relative_to(ROOT / 'docs')}\n" in config, f"mkdocs.yml does not name {page.name}"


def test_blocks_say_their_language():
    for page in PAGES:
        for block in blocks(page):
            assert block.language in ("bash", "python", "gin", "text", "yaml"), f"{block} is in {block.language!r}"


def test_strategies_have_the_flags_that_are_named():
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| ([^|]+) \|$", (ROOT / "docs" / "decoding.md").read_text(), re.M))
    assert set(rows) == set(STRATEGIES)
    for name, said in rows.items():
        known = {f"--{each.name}" for each in fields(STRATEGIES[name]) if not each.metadata.get("as_trained")}
        assert set(SPAN.findall(said)) == known, f"{name} has {known}"


def test_networks_have_the_modes_that_are_named():
    tokens, size = TokenIds(vocab_size=112, bos=3, mask=4, sentinels=20), {"vocab_size": 112, "emb_dim": 16}
    size |= {"num_heads": 2, "head_dim": 8, "mlp_dim": 32}
    networks = DecoderOnly(**size, num_layers=1), EncoderDecoder(**size, num_encoder_layers=1, num_decoder_layers=1)
    _, _, rest = (ROOT / "docs" / "evaluation.md").read_text().partition("\n## Scoring modes\n")
    tables = rest.partition("\n## ")[0].split("An encoder-decoder is scored")
    for network, text in zip(networks, tables):
        named = [name for row in re.findall(r"^\| (`.+?`) \|", text, re.M) for name in SPAN.findall(row)]
        assert sorted(named) == sorted(modes_of(network, tokens))


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_directions_of_imports_are_those_that_are_tested(name):
    drawn = next(block.text for block in blocks(ROOT / name, "text") if "errors paths" in block.text)
    source = (ROOT / "tests" / "test_floors.py").read_text()
    rooms = " ".join(re.findall(r'"([^"]*)"', source.partition("ROOMS = (")[2].partition(".split()")[0])).split()
    assert drawn.replace("|", " ").split() == [room for room in rooms if not room.startswith("_")]
