"""What does not fit is said in one sentence before it is allocated."""

from pathlib import Path

import jax
import pytest

from mixlm.errors import UserError
from mixlm.perf.memory import Need, check_fits, device_bytes, host_bytes, shortage


def test_needs_are_added_up_and_the_largest_is_named():
    needs = [Need("the rows", 3 * 2**30, "lower BATCH_SIZE"), Need("the logits", 2**30, "lower VOCAB_SIZE")]
    assert shortage("This run", needs, 4 * 2**30, "this machine") is None
    assert shortage("This run", needs, None, "a device that says nothing") is None
    with pytest.raises(UserError) as error:
        check_fits("This run", needs, 4 * 2**30 - 1, "this machine")
    assert str(error.value) == (
        "This run needs at least 4.0 GiB and this machine has 4.0 GiB: the rows alone are 3.0 GiB; lower BATCH_SIZE."
    )


def test_the_devices_of_a_cpu_share_its_memory():
    devices = jax.devices()
    assert device_bytes(devices) == host_bytes() // len(devices)
    lines = Path("/proc/meminfo").read_text().splitlines()
    total = next(int(line.split()[1]) for line in lines if line.startswith("MemTotal"))
    assert 2**20 < host_bytes() <= 1024 * total
