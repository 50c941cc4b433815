import json
import os
import shutil
import subprocess
import sys
import zlib
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.states import State, abstract, assert_same_bits, placed, some_state, tree_bytes, write

from mixlm.checkpoints import reader
from mixlm.checkpoints.saving import Checkpoints, size_in_bytes
from mixlm.errors import UserError
from mixlm.models.heads import TokenHead
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.optim.adafactor import Adafactor
from mixlm.optim.adamw import AdamW
from mixlm.optim.optimizer import Optimizer
from mixlm.parallel.mesh import Partitioning
from mixlm.paths import RunRef
from mixlm.schedules import Constant
from mixlm.training.initial_state import initial_state


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run" / "checkpoints"


@pytest.mark.parametrize("rule", [Adafactor(min_dim_size_to_factor=8), Adafactor(weight_decay=0.1), AdamW()])
def test_a_state_comes_back_to_the_bit_on_another_mesh_and_back(folder, rule):
    first = some_state(rule=rule)
    state = first
    for number, devices in enumerate((8, 1)):
        checkpoints = Checkpoints(folder / str(number))
        checkpoints.save(7, placed(state, 1 if devices == 8 else 8))
        asked = abstract(placed(first, devices))
        step, state = checkpoints.restore(asked)
        checkpoints.close()
        assert step == 7
        assert_same_bits(state, first)
        jax.tree.map(lambda leaf, want: leaf.sharding == want.sharding or pytest.fail(str(leaf.sharding)), state, asked)


def spread(devices: int, axes: dict[str, int]):
    """The shapes of a run's state with the shardings that training gives them on so many devices."""
    sizes = {"vocab_size": 64, "emb_dim": 16, "num_heads": 4, "head_dim": 4, "mlp_dim": 32}
    modules = {"model": DecoderOnly(**sizes, num_layers=1), "rtd_head": TokenHead(16)}
    laid = Partitioning(**axes).mesh(jax.devices()[:devices])
    return initial_state(modules, Optimizer(AdamW(), Constant(1.0)), 0, laid)


def test_a_runs_state_goes_from_eight_devices_to_one_to_four(folder):
    """Parameters and moments are cut over data, fsdp and tensor axes, and are the same to the bit everywhere."""
    create, shapes = spread(8, {"data": 2, "fsdp": 2, "tensor": 2})
    first = state = jax.tree.map(lambda leaf: leaf + 1, create())
    kernels = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim == 2]
    assert any(not leaf.sharding.is_fully_replicated for leaf in kernels)
    for number, (devices, axes) in enumerate([(1, {}), (4, {"fsdp": 4}), (8, {"tensor": 4})]):
        saved = Checkpoints(folder / str(number))
        saved.save(3, state)
        saved.close()
        shapes = spread(devices, axes)[1]
        for read in (
            lambda at, asked: at.restore(asked)[1],
            lambda at, asked: reader.read_state(at.folder / "3", asked),
        ):
            checkpoints = Checkpoints(folder / str(number))
            state = read(checkpoints, shapes)
            checkpoints.close()
            assert_same_bits(state, first)
            jax.tree.map(lambda leaf, want: leaf.sharding == want.sharding or pytest.fail(str(want)), state, shapes)


def test_nothing_is_written_before_the_first_save(folder):
    checkpoints = Checkpoints(folder)
    assert checkpoints.latest() is None
    assert checkpoints.restore(abstract(some_state())) is None
    checkpoints.close()
    assert not folder.parent.exists()


def test_the_newest_are_kept_and_none_is_written_twice(folder):
    checkpoints = Checkpoints(folder, keep=2)
    for step in (10, 20, 30):
        assert checkpoints.save(step, some_state(step))
        assert checkpoints.latest() == step
    assert not checkpoints.save(30, some_state(1))
    checkpoints.close()
    assert sorted(entry.name for entry in folder.iterdir()) == ["20", "30"]
    step, state = Checkpoints(folder).restore(abstract(some_state()))
    assert step == 30
    assert_same_bits(state, some_state(30))


def test_a_donated_state_is_saved_as_it_was(folder):
    @partial(jax.jit, donate_argnums=0)
    def next_state(state):
        return jax.tree.map(lambda leaf: leaf * 2, state)

    state = placed(some_state(width=4096), 8)
    checkpoints = Checkpoints(folder)
    checkpoints.save(7, state)
    for _ in range(3):
        state = next_state(state)
    jax.block_until_ready(state)
    _, saved = checkpoints.restore(abstract(placed(some_state(width=4096), 8)))
    checkpoints.close()
    assert_same_bits(saved, some_state(width=4096))


FIGURES = {10: 3.0, 20: 1.0, 30: 2.0, 40: 2.5, 50: 4.0, 60: 1.5}


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({"keep": 1, "best_metric": "causal"}, (20, 60)),
        ({"keep": 2, "best_metric": "causal", "keep_best": 2}, (20, 50, 60)),
        ({"keep": 1, "keep_period": 30}, (30, 60)),
        ({"keep": 1, "best_metric": "causal", "keep_period": 40}, (20, 40, 60)),
        ({"keep": 1, "best_metric": "prefix_lm"}, (60,)),
    ],
)
@pytest.mark.parametrize("restarts", [False, True])
def test_the_best_and_every_so_many_steps_stay_beside_the_newest_and_a_restart_forgets_none(
    folder, settings, left, restarts
):
    checkpoints = Checkpoints(folder, **settings)
    for step, value in FIGURES.items():
        checkpoints.save(step, {"kernel": jnp.full(3, step)}, {"causal": value})
        if restarts:
            checkpoints.close()
            checkpoints = Checkpoints(folder, **settings)
    checkpoints.close()
    assert sorted(int(entry.name) for entry in folder.iterdir()) == list(left)
    assert Checkpoints(folder).best("causal") == ((20, 1.0) if 20 in left else (60, 1.5))


@pytest.mark.parametrize("restarts", [False, True])
def test_a_checkpoint_with_a_name_stays_for_good(folder, restarts):
    names = {20: ["chck_1M"], 40: ["chck_2M", "chck_3M"]}
    checkpoints = Checkpoints(folder, keep=1)
    for step in FIGURES:
        checkpoints.save(step, {"kernel": jnp.full(3, step)}, names=names.get(step, ()))
        if restarts:
            checkpoints.close()
            checkpoints = Checkpoints(folder, keep=1)
    checkpoints.close()
    kept = Checkpoints(folder)
    assert sorted(int(entry.name) for entry in folder.iterdir()) == [20, 40, 60]
    assert kept.named() == {"chck_1M": 20, "chck_2M": 40, "chck_3M": 40}
    assert kept.resolve(RunRef.parse(f"{folder}@chck_3M"), None) == 40
    with pytest.raises(UserError, match=r"no checkpoint 'chck_4M', it keeps chck_1M, chck_2M, chck_3M\. Did you mean"):
        kept.resolve(RunRef.parse(f"{folder}@chck_4M"), None)
    flip(folder / "40" / "names.json")
    with pytest.raises(UserError, match=r"names\.json has other content"):
        kept.whole(40)
    (folder / "20" / "names.json").write_text('["../chck_1M", 3, "chck_9M"]')
    assert Checkpoints(folder).names(20) == ["chck_9M"]


def test_damaged_figures_are_no_figures(folder):
    checkpoints = Checkpoints(folder)
    checkpoints.save(10, some_state(10), {"causal": 2.0})
    checkpoints.close()
    note = folder / "10" / "figures.json"
    note.write_text(note.read_text().replace("2.0", "1.0"))
    assert Checkpoints(folder).whole() is None
    note.write_text('["causal"]')
    assert Checkpoints(folder).figures(10) == {}


def remove(path: Path) -> None:
    path.unlink()


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def test_every_damage_to_every_file_falls_back_to_the_last_whole_one(folder, capfd):
    write(folder, (10, 20))
    whole = folder.parent / "whole"
    shutil.copytree(folder / "20", whole)
    names = [path.relative_to(whole) for path in whole.rglob("*") if path.is_file()]
    # Orbax adds this note after the checkpoint is complete, and never reads it.
    names.remove(Path("commit_success.txt"))
    assert len(names) > 5
    asked = abstract(some_state())
    for name in names:
        for damage in (remove, halve, flip):
            # A flipped byte of a note can leave another valid note; what is restored is checked all the same.
            note = name.name in ("checksums.json", "_CHECKPOINT_METADATA") and damage is flip
            shutil.rmtree(folder / "20", ignore_errors=True)
            shutil.copytree(whole, folder / "20")
            damage(folder / "20" / name)
            checkpoints = Checkpoints(folder)
            step, state = checkpoints.restore(asked)
            checkpoints.close()
            assert_same_bits(state, some_state(step))
            if note and step == 20:
                continue
            assert step == 10, (name, damage)
            printed, errors = capfd.readouterr()
            assert printed.count("\n") == 1 and "step 20" in printed and "step 10" in printed and errors == ""


def test_a_torn_step_is_saved_again_and_stays_aside(folder, capfd):
    write(folder, (10, 20, 30))
    for step in ("20", "30"):
        halve(next(path for path in (folder / step / "default").rglob("d/*") if path.is_file()))
    checkpoints = Checkpoints(folder)
    assert checkpoints.latest() == 10
    step, state = checkpoints.restore(abstract(some_state()))
    assert step == 10
    assert "steps 30, 20" in capfd.readouterr().out
    # Left in place, they would count among the newest that are kept.
    assert sorted(entry.name for entry in folder.iterdir()) == ["10", "20.torn", "30.torn"]
    assert checkpoints.save(20, some_state(21)) and checkpoints.save(30, some_state(31))
    step, state = checkpoints.restore(abstract(some_state()))
    checkpoints.close()
    assert step == 30
    assert_same_bits(state, some_state(31))
    assert sorted(entry.name for entry in folder.iterdir()) == ["10", "20", "20.torn", "30", "30.torn"]


@pytest.mark.parametrize("damage", ["pipe", '{"init_timestamp_nsecs": "then"}', "nonsense"])
def test_an_older_one_with_a_damaged_note_stands_in_nobody_s_way(folder, capfd, damage):
    """Orbax reads the notes of all checkpoints before it restores or saves one, and waits for a pipe."""
    write(folder, (10, 20))
    note = folder / "10" / "_CHECKPOINT_METADATA"
    remove(note)
    os.mkfifo(note) if damage == "pipe" else note.write_text(damage)
    checkpoints = Checkpoints(folder)
    assert checkpoints.restore(abstract(some_state()))[0] == 20
    assert checkpoints.save(30, some_state(30))
    checkpoints.close()
    printed, errors = capfd.readouterr()
    assert "the checkpoint of step 10 (_CHECKPOINT_METADATA is" in printed and "going on from" in printed
    assert errors == "" and sorted(entry.name for entry in folder.iterdir()) == ["10.torn", "20", "30"]


@pytest.mark.parametrize("name", ["7", "30", "notes"])
def test_a_pipe_among_checkpoints_is_named_and_not_waited_for(folder, name):
    write(folder, (10,))
    os.mkfifo(folder / name)
    for ask in (lambda found: found.whole(), lambda found: found.restore(abstract(some_state()))):
        with pytest.raises(UserError, match=f"{name} is a pipe"):
            ask(Checkpoints(folder))


def test_only_what_orbax_writes_is_a_step(folder):
    write(folder, (10,))
    for name in ("007", "\u0663\u0663", "9" * 30, "20.torn", "-1", "1e1"):
        (folder / name).mkdir()
    assert Checkpoints(folder).listed() == "10" and Checkpoints(folder).whole() == 10


def test_when_no_checkpoint_is_whole_that_is_said(folder, capfd):
    write(folder, (10,))
    remove(folder / "10" / "checksums.json")
    assert Checkpoints(folder).restore(abstract(some_state())) is None
    printed = capfd.readouterr().out
    assert "step 10" in printed and "no other is whole" in printed


def test_what_a_kill_leaves_behind_is_cleared_away(folder):
    write(folder, (10,))
    (folder / "20.orbax-checkpoint-tmp-0" / "default").mkdir(parents=True)
    checkpoints = Checkpoints(folder)
    step, _ = checkpoints.restore(abstract(some_state()))
    assert step == 10
    checkpoints.save(20, some_state(20))
    checkpoints.close()
    assert sorted(entry.name for entry in folder.iterdir()) == ["10", "20"]


def test_the_checksums_name_every_file(folder):
    write(folder, (10,))
    sums = json.loads((folder / "10" / "checksums.json").read_text())
    files = {path.relative_to(folder / "10").as_posix(): path for path in (folder / "10").rglob("*") if path.is_file()}
    assert set(files) - {"checksums.json", "commit_success.txt", "_CHECKPOINT_METADATA"} == set(sums)
    for name, (size, crc) in sums.items():
        content = files[name].read_bytes()
        assert (len(content), zlib.crc32(content)) == (size, crc)


def change(state: State, what: str) -> State:
    params = jax.tree.map(lambda leaf: leaf, state.params)
    if what == "missing":
        params["model"]["bias"] = jnp.zeros(3)
    elif what == "extra":
        del params["generator"]
    elif what == "shape":
        params["model"]["mlp"]["kernel"] = jnp.zeros((16, 25))
    elif what == "dtype":
        params["generator"]["kernel"] = jnp.zeros((16, 16), jnp.bfloat16)
    return state.replace(params=params)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("missing", "has no params/model/bias, which this run needs"),
        ("extra", "holds params/generator/kernel, which this run lacks"),
        ("shape", r"params/model/mlp/kernel has shape \(16, 24\) in the checkpoint .* and \(16, 25\) in this run"),
        ("dtype", "params/generator/kernel has dtype float32 in the checkpoint .* and bfloat16 in this run"),
    ],
)
def test_another_network_s_checkpoint_names_the_first_difference(folder, what, words):
    write(folder, (10,))
    checkpoints = Checkpoints(folder)
    with pytest.raises(UserError, match=words):
        checkpoints.restore(abstract(change(some_state(), what)))
    checkpoints.close()
    # A mistake of the user's is no reason to touch the checkpoint.
    assert [entry.name for entry in folder.iterdir()] == ["10"]


@pytest.mark.parametrize("rule", [Adafactor(min_dim_size_to_factor=8), AdamW()])
@pytest.mark.parametrize("networks", [("model",), ("generator",), ("model", "generator")])
@pytest.mark.parametrize("devices", [1, 8])
def test_parameters_alone_come_back_on_any_mesh_whatever_the_optimizer(folder, rule, networks, devices):
    state = some_state(rule=rule)
    checkpoints = Checkpoints(folder)
    checkpoints.save(7, placed(state, 9 - devices))
    checkpoints.close()
    before = tree_bytes(folder)
    asked = {name: abstract(placed(state, devices)).params[name] for name in networks}
    step, params = Checkpoints(folder).restore_params(asked)
    assert step == 7
    assert_same_bits(params, {name: state.params[name] for name in networks})
    jax.tree.map(lambda leaf, want: leaf.sharding == want.sharding or pytest.fail(str(leaf.sharding)), params, asked)
    assert tree_bytes(folder) == before


def test_parameters_are_those_of_the_newest_whole_checkpoint_and_nothing_is_touched(folder, capfd):
    write(folder, (10, 20, 30, 40))
    for step in ("20", "30"):
        halve(next(path for path in (folder / step / "default").rglob("d/*") if path.is_file()))
    remove(folder / "40" / "checksums.json")
    # What another process has only begun to write.
    (folder / "50.orbax-checkpoint-tmp-0" / "default").mkdir(parents=True)
    before, entries = tree_bytes(folder), sorted(folder.iterdir())
    step, params = Checkpoints(folder).restore_params({"model": abstract(some_state()).params["model"]})
    assert step == 10
    assert_same_bits(params, {"model": some_state(10).params["model"]})
    printed = capfd.readouterr().out
    assert printed.count("\n") == 1 and "steps 40, 30, 20" in printed and "step 10" in printed
    assert (tree_bytes(folder), sorted(folder.iterdir())) == (before, entries)


def test_parameters_of_a_folder_without_a_whole_checkpoint_are_none(folder, capfd):
    asked = abstract(some_state()).params
    assert Checkpoints(folder).restore_params(asked) is None
    assert not folder.parent.exists()
    write(folder, (10,))
    remove(folder / "10" / "_CHECKPOINT_METADATA")
    capfd.readouterr()
    assert Checkpoints(folder).restore_params(asked) is None
    assert "no other is whole" in capfd.readouterr().out
    assert [entry.name for entry in folder.iterdir()] == ["10"]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("missing", r"^The checkpoint [^\n]*/10 has no params/model/bias, which this run needs; "),
        ("shape", r"^params/model/mlp/kernel has shape \(16, 24\) in the checkpoint [^\n]*/10 and \(16, 25\) in "),
        ("dtype", r"^params/generator/kernel has dtype float32 in the checkpoint [^\n]*/10 and bfloat16 in "),
        ("network", r"^The checkpoint [^\n]*/10 holds no network 'modle', only 'generator' and 'model'. Did you mean "),
    ],
)
def test_parameters_of_another_network_name_the_first_difference(folder, what, words):
    write(folder, (10,))
    params = abstract(change(some_state(), what)).params
    if what == "network":
        params["modle"] = params.pop("model")
    with pytest.raises(UserError, match=words):
        Checkpoints(folder).restore_params(params)
    assert [entry.name for entry in folder.iterdir()] == ["10"]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    checkpoints = Checkpoints(tmp_path / "file" / "checkpoints")
    with pytest.raises(UserError, match=r"^The folder of checkpoints [^\n]* could not be opened: Not a directory[.]$"):
        checkpoints.save(1, some_state())
    checkpoints.close()


def test_a_checkpoint_that_does_not_fit_is_not_begun(folder, monkeypatch):
    usage = shutil.disk_usage(folder.parent.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=1000))
    checkpoints = Checkpoints(folder)
    with pytest.raises(UserError, match=r"^The checkpoint of step 1 needs [^\n]* GB and [^\n]* has 1e-06 GB left; "):
        checkpoints.save(1, some_state())
    checkpoints.close()
    assert not folder.exists()


def test_no_checkpoints_are_too_few(folder):
    with pytest.raises(UserError, match="keep at least 1"):
        Checkpoints(folder, keep=0)


def test_the_size_is_that_of_the_arrays():
    state = {"a": jax.ShapeDtypeStruct((3, 5), jnp.float32), "b": jax.ShapeDtypeStruct((7,), jnp.bfloat16)}
    assert size_in_bytes(state) == 3 * 5 * 4 + 7 * 2
    assert size_in_bytes(some_state()) == sum(leaf.nbytes for leaf in jax.tree.leaves(some_state()))


QUIET = """
from mixlm.checkpoints.orbax_io import silence_orbax
silence_orbax()  # first, as the commands do: nothing has imported absl yet
import sys, jax, jax.numpy as jnp
from mixlm.checkpoints import reader
from mixlm.checkpoints.saving import Checkpoints
state = {"params": {"kernel": jnp.arange(300_000.0).reshape(300, 1000) * jnp.pi}, "step": jnp.int32(1)}
asked = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
checkpoints = Checkpoints(sys.argv[1], keep=1)
assert "orbax.checkpoint" not in sys.modules
for step in range(3):
    checkpoints.save(step, state)
assert checkpoints.restore(asked)[0] == 2
assert Checkpoints(sys.argv[1]).restore_params({"kernel": asked["params"]["kernel"]})[0] == 2
checkpoints.close()
"""

ENDLESS = """
import itertools, sys, jax, jax.numpy as jnp
from mixlm.checkpoints import reader
from mixlm.checkpoints.saving import Checkpoints
checkpoints = Checkpoints(sys.argv[1], keep=2)
for step in itertools.count(1):
    checkpoints.save(step, {"kernel": jnp.full((1000, 100), step)})
    print(step, flush=True)
"""

FULL_DISK = """
import resource
from mixlm.errors import UserError
checkpoints = Checkpoints(sys.argv[1] + "-full")
checkpoints.save(0, {"kernel": jnp.zeros(3)})
checkpoints.wait()
# A limit on a file's length fails a write in the middle, as a full disk does.
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoints.save(1, state)
    checkpoints.wait()
    print("written?")
except UserError as error:
    print(error)
print(checkpoints.latest())
checkpoints.close()
"""


def run(script: str, folder: Path) -> tuple[str, str]:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-W", "error", "-X", "dev", "-c", script, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_a_run_that_saves_and_restores_is_silent(folder):
    assert run(QUIET, folder) == ("", "")


def test_a_full_disk_is_one_sentence_and_the_last_checkpoint_survives(folder):
    printed, errors = run(QUIET + FULL_DISK, folder)
    assert "ERROR" not in errors and "absl" not in errors
    sentence, latest = printed.splitlines()
    assert sentence == f"The checkpoint of step 1 could not be written to {folder}-full: File too large."
    assert latest == "0"


@pytest.mark.parametrize("saves", [3, 6])
def test_a_killed_run_leaves_a_whole_checkpoint(folder, saves):
    command = [sys.executable, "-c", ENDLESS, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(saves):
            process.stdout.readline()
        process.kill()
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    checkpoints = Checkpoints(folder)
    asked = {"kernel": jax.ShapeDtypeStruct((1000, 100), jnp.int32, sharding=sharding)}
    step, state = checkpoints.restore(asked)
    # The save that was announced last may have been under way.
    assert step >= saves - 1
    np.testing.assert_array_equal(state["kernel"], step)
    assert checkpoints.save(step + 1, {"kernel": jnp.full((1000, 100), -1)})
    checkpoints.close()
    assert Checkpoints(folder).latest() == step + 1
