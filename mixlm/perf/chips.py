"""Peak figures of accelerators by JAX's device kind, to which roofline bounds and utilisation refer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """Peak figures of one chip, as its maker publishes them.

    `flops` are bfloat16 FLOP/s with dense operands, `hbm` is in bytes, `bandwidth` in bytes/s from and to HBM, and
    `links` the bytes/s that one chip can send to the others over all its links at once, in one direction.
    `vector_memory` is the size of a TPU core's vector memory (VMEM) in bytes.
    """

    name: str
    flops: float
    hbm: float
    bandwidth: float
    links: float
    vector_memory: float = 0.0


# TPUs: the system architecture pages of Google's Cloud TPU documentation. For `links` they state both directions (v5p:
# 1200 GB/s) or one (v5e: 1600 Gbit/s, v6e: 3200 Gbit/s), over all of a chip's ports; v4's are six ports of 50 GB/s
# (arXiv 2304.01433). Sizes of the vector memory are from a table in JAX's Pallas; those pages lack them. GPUs: NVIDIA's
# datasheets of the SXM modules; no sparsity, NVLink in one direction.
CHIPS = {
    "TPU v4": Chip("v4", 275e12, 32 * 2**30, 1.2e12, 300e9, 16 * 2**20),
    "TPU v5 lite": Chip("v5e", 197e12, 16 * 2**30, 0.819e12, 200e9, 128 * 2**20),
    "TPU v5": Chip("v5p", 459e12, 95 * 2**30, 2.765e12, 600e9, 64 * 2**20),
    "TPU v6 lite": Chip("v6e", 918e12, 32 * 2**30, 1.6e12, 400e9, 128 * 2**20),
    "NVIDIA H100 80GB HBM3": Chip("H100", 989e12, 80e9, 3.35e12, 450e9),
    "NVIDIA H200": Chip("H200", 989e12, 141e9, 4.8e12, 450e9),
}
# Other device kinds of the same chips.
ALIASES = {"TPU v5e": "TPU v5 lite", "TPU v5p": "TPU v5", "TPU v6e": "TPU v6 lite"}


def chip(device_kind: str) -> Chip | None:
    """The chip of a device kind (`jax.devices()[0].device_kind`); None where its peaks are not in `CHIPS`."""
    return CHIPS.get(ALIASES.get(device_kind, device_kind))
