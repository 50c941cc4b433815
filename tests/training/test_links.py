"""A whole run in a folder where links and pipes wait at every name that it writes."""

import contextlib
import os
import shutil

import jax
import pytest
from support.small_run import recipe

from mixlm.errors import UserError
from mixlm.perf.profiler import Profile
from mixlm.training import run as loop

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stopped(corpus, tmp_path_factory):
    """A run of which three steps are done, and the names that the rest of it writes."""
    folder = tmp_path_factory.mktemp("links")
    one = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: one)
        made = small(corpus, folder / "run", 3)
        loop.train(made, lambda _: None)
        shutil.copytree(made.folder, folder / "more")
        loop.train(small(corpus, folder / "more", 6), lambda _: None, Profile(5, 5))
        yield made.folder, names(folder / "more") | names(made.folder)


def small(corpus, folder, steps):
    return recipe(str(corpus), str(folder), bag=True, train_steps=steps)


def names(folder) -> set[str]:
    return {os.path.relpath(path, folder) for path in folder.rglob("*")}


def test_no_link_at_any_name_that_a_run_writes_leads_outside(stopped, corpus, tmp_path):
    """The names in the checkpoints' own folders are new each time, so that the folders stand for them."""
    begun, written = stopped
    places = [name for name in sorted(written) if not name.startswith("checkpoints/") or name.count("/") == 1]
    assert {"metrics.jsonl", "curves.png", "checkpoints/6", "profile/plugins/profile", ".lock"} <= {*places}
    for number, name in enumerate(places):
        outside, folder = tmp_path / f"outside{number}", tmp_path / f"run{number}"
        outside.mkdir()
        (outside / "kept").write_text("kept")
        shutil.copytree(begun, folder)
        place = folder / name
        is_folder = place.is_dir() or "." not in place.name
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(outside if is_folder else outside / "kept")
        with contextlib.suppress(UserError):
            loop.train(small(corpus, folder, 6), lambda _: None, Profile(5, 5))
        # A user may keep the checkpoints behind a link.
        if name != "checkpoints":
            assert [path.name for path in outside.rglob("*")] == ["kept"], name
        assert (outside / "kept").read_text() == "kept", name


def test_a_pipe_at_any_name_is_a_sentence_and_no_wait(stopped, corpus, tmp_path):
    begun = stopped[0]
    for number, name in enumerate(sorted(name for name in names(begun) if (begun / name).is_file())):
        folder = tmp_path / f"run{number}"
        shutil.copytree(begun, folder)
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with contextlib.suppress(UserError):
            loop.train(small(corpus, folder, 6), lambda _: None)
