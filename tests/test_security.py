"""What lies in a run, a store or a checkpoint is data: it runs no code, and leads to no place outside of its folder."""

import ast
import json
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from support import places
from support.decoder_runs import recipe
from support.states import abstract, some_state, tree_bytes, write
from support.stores import DOCUMENTS, built, documents

from mixlm.checkpoints import from_t5x
from mixlm.checkpoints.load import load_params
from mixlm.checkpoints.run_dir import RunDir
from mixlm.checkpoints.saving import Checkpoints
from mixlm.checkpoints.warm_start import find_warm_start
from mixlm.data.store.token_store import TokenStore, _checksum
from mixlm.errors import UserError
from mixlm.paths import within
from mixlm.training import run as loop
from mixlm.training.initial_state import initial_state

ROOT = places.ROOT
SOURCES = [path for folder in ("mixlm", "launch", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
GOLDEN = places.GOLDEN / "t5x_checkpoint" / "checkpoint_0"

# Formats whose reading can run code, and calls that do.
MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {"os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "pandas.read_pickle"}


def dangers(tree: ast.Module) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in MODULES:
            found.append(node.module)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if name in BUILTINS or name in CALLS or name.endswith(".read_pickle"):
                found.append(name)
            if given.get("allow_pickle", "False") != "False" or given.get("shell", "False") != "False":
                found.append(name)
            if name == "torch.load" and given.get("weights_only") != "True":
                found.append(name)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_file_reads_what_can_run_code(path):
    # What runs generated programs, where a flag asks for it, is a process of its own, confined before it runs one.
    allowed = ["exec", "compile"] if path.name == "confined.py" else []
    assert dangers(ast.parse(path.read_text(encoding="utf-8"))) == allowed


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "def f():\n    import cloudpickle as c",
        "eval(text)",
        "exec(text)",
        "yaml.load(file)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
    ],
)
def test_a_danger_is_seen(source):
    assert len(dangers(ast.parse(source))) == 1


@pytest.mark.parametrize("source", ["ast.literal_eval(x)", "re.compile(x)", "torch.load(x, weights_only=True)"])
def test_what_runs_no_code_is_no_danger(source):
    assert dangers(ast.parse(source)) == []


WATCHED: list[tuple[str, str]] = []
WATCHING = [False]


def _watch(event: str, arguments: tuple) -> None:
    if WATCHING[0] and event in ("open", "pickle.find_class", "os.rename", "os.remove", "os.rmdir", "os.truncate"):
        WATCHED.append((event, str(arguments[0])))


@contextmanager
def watched():
    """The files that Python opens, renames or removes inside of the block, and the classes that it unpickles."""
    if _watch not in HOOKS:
        HOOKS.append(_watch)
        sys.addaudithook(_watch)
    WATCHED.clear()
    WATCHING[0] = True
    try:
        yield WATCHED
    finally:
        WATCHING[0] = False


HOOKS: list = []


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    """A run with the checkpoint of step 2, whose config.gin is no gin."""
    made = recipe(corpus, tmp_path_factory.mktemp("runs") / "run")
    folder, checkpoints = RunDir(made.folder), Checkpoints(made.folder / "checkpoints")
    folder.acquire(made.identity(), "import os; os.abort()")
    folder.release()
    checkpoints.save(2, initial_state(dict(made.modules), made.optimizer, 0, made.partitioning.mesh())[0]())
    checkpoints.close()
    return made


def test_a_runs_config_is_not_read_and_its_checkpoints_unpickle_nothing(run, corpus, tmp_path):
    with watched() as events:
        assert load_params(run)[0] == 2
        for optimizer in (False, True):
            made = recipe(corpus, tmp_path / "new", init_from=str(run.folder), init_optimizer=optimizer)
            prepared = loop.prepare(made, None, warm_start=find_warm_start(made))
            prepared.warm_start.state(prepared.init_state, prepared.shapes)
            prepared.close()
        from_t5x.load_checkpoint(GOLDEN)
    assert any(name.endswith("recipe.json") for _, name in events)
    assert [event for event in events if "config.gin" in event[1] or event[0] == "pickle.find_class"] == []


NAMES = ["../secret", "../../x", "/etc/passwd", "a/../../b", "..", "", ".", "a\0b", 7, None]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_out_of_its_folder_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="which is not in it, so it is not read"):
        within(tmp_path, name)


@pytest.mark.parametrize("name", ["a", "a/b", "...", "a..b", "-"])
def test_a_name_within_its_folder_is_that_place(tmp_path, name):
    assert within(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize("link", ["a", "a/b"])
def test_a_link_is_refused_wherever_it_is_on_the_way(tmp_path, link):
    place = tmp_path / link
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(tmp_path)
    with pytest.raises(UserError, match="is a link, and inside of a run, store or checkpoint no links are followed"):
        within(tmp_path, "a/b/c")


@pytest.fixture
def secret(tmp_path):
    """A folder outside of the run, of which nothing may be read, renamed or changed."""
    folder = tmp_path / "secret"
    write(folder, (20,))
    return folder


@pytest.fixture
def checkpoints(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    write(folder, (10, 20))
    return folder


def harmless(events, secret: Path) -> bool:
    return not any(name.startswith(str(secret)) for _, name in events)


@pytest.mark.parametrize("kind", ["../../../secret/20/checksums.json", "absolute", "link", "linked folder", "new link"])
def test_a_checkpoint_that_speaks_of_another_place_is_not_whole_and_nothing_there_is_touched(
    checkpoints, secret, kind, capfd
):
    step, before = checkpoints / "20", tree_bytes(secret)
    notes = json.loads((step / "checksums.json").read_text())
    if kind == "new link":
        (step / "default" / "d" / "more").symlink_to(secret / "20" / "checksums.json")
    elif "link" in kind:
        inside = next(step.glob("default/d/*" if kind == "link" else "default/d"))
        shutil.rmtree(inside) if inside.is_dir() else inside.unlink()
        inside.symlink_to(secret / inside.relative_to(checkpoints))
    else:
        notes[str(secret / "20/checksums.json") if kind == "absolute" else kind] = [1, 1]
        (step / "checksums.json").write_text(json.dumps(notes))
    with watched() as events:
        found = Checkpoints(checkpoints)
        assert found.latest() == 10
        assert found.restore_params(abstract(some_state()).params)[0] == 10
        assert found.restore(abstract(some_state()))[0] == 10
        found.close()
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 2 and all("step 20" in line and ("link" in line or "is not in it" in line) for line in lines)
    assert harmless(events, secret) and tree_bytes(secret) == before
    assert sorted(path.name for path in checkpoints.iterdir()) == ["10", "20.torn"]


@pytest.mark.parametrize("name", ["30", "20.torn", "30.orbax-checkpoint-tmp-0"])
def test_a_link_among_checkpoints_is_refused_by_everything_that_reads_or_clears_them(checkpoints, secret, name):
    (checkpoints / name).symlink_to(secret / "20")
    (checkpoints / "20" / "checksums.json").unlink()
    before = tree_bytes(secret.parent)
    asks = [
        lambda found: found.latest(),
        lambda found: found.whole(),
        lambda found: found.restore(abstract(some_state())),
        lambda found: found.save(20, some_state()),
        lambda found: found.best("causal"),
    ]
    for ask in asks:
        found = Checkpoints(checkpoints)
        with watched() as events, pytest.raises(UserError, match=f"{name} is a link"):
            ask(found)
        found.close()
        assert harmless(events, secret)
    assert tree_bytes(secret.parent) == before


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.txt", "curves.png", "recipe.json", ".lock", "evaluation"])
def test_a_link_in_a_runs_folder_is_refused_before_anything_is_read_or_written(run, corpus, tmp_path, name):
    copy, other = tmp_path / "copy", tmp_path / "other"
    shutil.copytree(run.folder, copy)
    other.mkdir()
    (other / name).write_text("{}")
    shutil.rmtree(copy / name) if (copy / name).is_dir() else (copy / name).unlink(missing_ok=True)
    (copy / name).symlink_to(other / name)
    asks = [
        lambda: loop.train(recipe(corpus, copy), lambda _: None),
        lambda: load_params(recipe(corpus, copy)),
        lambda: find_warm_start(recipe(corpus, tmp_path / "new", init_from=str(copy))),
        lambda: RunDir(copy).acquire(run.identity(), ""),
    ]
    for ask in asks:
        with watched() as events, pytest.raises(UserError, match=f"{name} is a link"):
            ask()
        assert harmless(events, other)
    assert (other / name).read_text() == "{}"


def test_a_run_may_be_reached_through_links_and_keep_its_checkpoints_behind_one(run, corpus, tmp_path):
    """`runs -> /scratch/runs`, MODEL_DIR itself a link, `RUN/checkpoints -> elsewhere`: the user made them all."""
    (tmp_path / "scratch").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "scratch")
    shutil.copytree(run.folder, tmp_path / "scratch" / "copy")
    shutil.move(tmp_path / "scratch" / "copy" / "checkpoints", tmp_path / "elsewhere")
    (tmp_path / "scratch" / "copy" / "checkpoints").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "linked").symlink_to(tmp_path / "runs" / "copy")
    made = recipe(corpus, tmp_path / "linked")
    assert load_params(made)[0] == 2
    assert find_warm_start(recipe(corpus, tmp_path / "new", init_from=str(tmp_path / "linked"))).step == 2
    folder, checkpoints = RunDir(made.folder), Checkpoints(RunDir(made.folder).checkpoints)
    folder.acquire(made.identity(), "")
    folder.release()
    state = initial_state(dict(made.modules), made.optimizer, 0, made.partitioning.mesh())[0]()
    assert checkpoints.save(4, state)
    checkpoints.close()
    assert load_params(made)[0] == 4 and (tmp_path / "elsewhere" / "4" / "checksums.json").exists()


def test_a_link_to_no_folder_is_no_place_for_checkpoints(run, corpus, tmp_path):
    shutil.copytree(run.folder, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "checkpoints")
    (tmp_path / "copy" / "checkpoints").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="checkpoints must be a folder, or a link to a folder that exists"):
        loop.train(recipe(corpus, tmp_path / "copy"), lambda _: None)


def test_the_record_of_where_a_run_began_names_no_place(run, corpus, tmp_path):
    """Its step alone is taken; the folder is the one that the command names."""
    made = recipe(corpus, tmp_path / "new", init_from=str(run.folder))
    assert find_warm_start(made, "/etc/passwd@2").folder == run.folder
    for damaged in ("/etc/passwd", "x@", "x@-1", "@two", "x@" + "9" * 5000, "x@\u0663"):
        with pytest.raises(UserError, match=r"record of where this run began .* is damaged"):
            find_warm_start(made, damaged)


def changed(folder: Path, change) -> None:
    """Changes a store's manifest, as one who knows how it is made would."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["checksum"]
    change(manifest)
    path.write_text(json.dumps({**manifest, "checksum": _checksum(manifest)}))


def test_a_store_that_speaks_of_another_place_is_refused(tmp_path):
    secret = tmp_path / "secret.tokens"
    secret.write_bytes(b"1234")
    entry = {"bytes": 4, "sha256": "0"}
    for name in ("../secret.tokens", str(secret)):
        built(tmp_path / "store")
        changed(tmp_path / "store", lambda manifest, name=name: manifest["files"].update({name: entry}))
        with watched() as events, pytest.raises(UserError, match="which is not in it, so it is not read"):
            TokenStore.open(tmp_path / "store")
        assert harmless(events, secret)
    built(tmp_path / "linked")
    (tmp_path / "linked" / "train.tokens").unlink()
    (tmp_path / "linked" / "train.tokens").symlink_to(secret)
    with watched() as events, pytest.raises(UserError, match=r"train\.tokens is a link"):
        TokenStore.open(tmp_path / "linked")
    assert harmless(events, secret)


def test_a_stores_bytes_are_never_taken_for_objects(tmp_path):
    """As an array of objects they would be taken for addresses, and followed."""
    built(tmp_path / "store")
    changed(tmp_path / "store", lambda manifest: manifest.update({"dtype": "|O"}))
    with pytest.raises(UserError, match=r"manifest.json is damaged\.$"):
        TokenStore.open(tmp_path / "store")
    # A store that cannot be read is made again, as any damaged one.
    assert built(tmp_path / "store").split("train").num_documents == len(documents(DOCUMENTS))


@pytest.fixture
def foreign(tmp_path):
    """A copy of a T5X checkpoint, and a function that changes its index."""
    copy = tmp_path / "checkpoint_0"
    shutil.copytree(GOLDEN, copy)

    def change(value):
        index = msgpack.unpackb((copy / "checkpoint").read_bytes(), raw=False, strict_map_key=False)
        index["optimizer"]["target"]["decoder"]["logits_dense"]["kernel"] = value
        (copy / "checkpoint").write_bytes(msgpack.packb(index))

    return copy, change


@pytest.mark.parametrize("place", ["../secret", "/etc", "target.decoder.logits_dense.kernel/../../secret"])
def test_a_t5x_index_that_speaks_of_another_place_is_refused(foreign, place):
    copy, change = foreign
    shutil.copytree(copy / "target.decoder.logits_dense.kernel", copy.parent / "secret")
    change({"driver": "zarr", "kvstore": {"driver": "file", "path": place}})
    with pytest.raises(UserError, match="which is not in it, so it is not read"):
        from_t5x.load_checkpoint(copy)


@pytest.mark.parametrize("name", ["target.decoder.logits_dense.kernel", "target.decoder.logits_dense.kernel/0.0"])
def test_a_link_in_a_t5x_checkpoint_is_refused(foreign, name):
    copy, _ = foreign
    (copy / name).rename(copy.parent / "secret")
    (copy / name).symlink_to(copy.parent / "secret")
    with pytest.raises(UserError, match="is a link, and inside of a run, store or checkpoint no links are followed"):
        from_t5x.load_checkpoint(copy)


@pytest.mark.parametrize("dtype", ["object", "O", "|O8"])
def test_a_t5x_index_makes_no_objects(foreign, dtype):
    """The extension types of flax's msgpack are arrays and numbers; one of objects would be read as addresses."""
    copy, change = foreign
    change(msgpack.ExtType(1, msgpack.packb([[1], dtype, np.ones(1).tobytes()])))
    with watched() as events, pytest.raises(UserError, match="torn or no T5X checkpoint index"):
        from_t5x.load_checkpoint(copy)
    assert not any(event == "pickle.find_class" for event, _ in events)


def test_the_watch_sees_an_unpickled_class():
    import pickle

    content = pickle.dumps(jnp.float32)
    with watched() as events:
        pickle.loads(content)
    assert any(event == "pickle.find_class" for event, _ in events)
    assert jax.devices()
