"""Devices of TPU slices as compilation targets, without the hardware."""

import os
import re
from typing import Any

from mixlm.errors import UserError, nearest

# The slices that Google's Cloud TPU documentation lists.
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
SOLID = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16")
TOPOLOGIES = tuple(
    f"{generation}:{shape}"
    for generation, shapes in (("v5e", FLAT), ("v6e", FLAT), ("v5p", SOLID), ("v4", SOLID))
    for shape in shapes
)
# Keep libtpu from querying the metadata server and neighbouring hosts of an absent TPU, and from locking a present one;
# the accelerator type only has to be a known one.
_ALONE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


def topology_devices(name: str) -> list[Any]:
    """The devices of a TPU slice such as "v5e:4x4", or of two of them ("2xv5e:4x4"), as compilation targets only.

    Raises UserError for a name that the TPU compiler does not know, and where that compiler is not installed.
    """
    from jax.experimental import topologies

    several = re.fullmatch(r"0*([1-9]\d*)x(?=v)(.*)", name)
    slices, name = (int(several[1]), several[2]) if several else (1, name)

    for variable, value in _ALONE.items():
        os.environ.setdefault(variable, value)
    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if name.startswith("v4:"):
        options["chip_config_name"] = "megacore"  # one device a chip, as on the other generations
    if name.endswith(":1x1"):
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return list(topologies.get_topology_desc(name, "tpu", **options).devices)
    except RuntimeError as error:
        if "not installed" in str(error):
            raise UserError("There is no TPU compiler here: install it with pip install 'mixlm[tpu]'.") from None
        known = nearest(name, TOPOLOGIES) or f" Known are {', '.join(TOPOLOGIES[:4])} and such."
        raise UserError(f"The TPU compiler knows no topology {name!r}.{known}") from None
