# ruff: noqa: E402
"""What every paper's step takes on TPUs, by the TPU compiler: python benchmarks/aot.py [CASE ...].

Each case is a recipe at its paper's size, compiled for a slice without one (the `tpu` extra must be installed), stage
by stage, in a process of its own. The JSON file keeps what was measured, so that cases can be compiled one at a time.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from mixlm.gin_config.build import configured
from mixlm.gin_config.flags import parse_flags
from mixlm.perf.chips import chip
from mixlm.perf.collectives import Collective
from mixlm.perf.tpu_topology import topology_devices
from mixlm.recipe import Recipe
from mixlm.reports.units import parameters
from mixlm.training.aot import Needs, bounds, needs
from mixlm.training.prepare import prepare

POD = "v5p:4x4x4"
# T5X's own step at the setting of benchmarks/t5_base.gin, compiled for the same slice. The bytes of HBM are those of a
# step of its network, loss and Adafactor alone, which has 4.60 GiB of temporaries and 97.7 GB accessed.
T5X = "| T5X, t5_base | span_corruption | v5e:4x4 | data 16 | 256 x 568 | | 5.17 | | 7.89 | | 111.6 | 26.5 | | | |"
CASES = {
    "t5_base": ("v5e:4x4", [str(HERE / "t5_base.gin")]),
    "spactor": (POD, ["spactor.gin", "scale/spactor_base.gin"]),
    "dual": (POD, ["dual.gin", "scale/dual.gin"]),
    "antlm": (POD, ["antlm.gin", "scale/antlm.gin"]),
    "ar2diff": (POD, ["ar2diff.gin", "scale/ar2diff.gin"]),
    "mile": (POD, ["mile.gin", "scale/mile.gin"]),
    "mile_7b": (POD, ["mile.gin", "scale/mile_7b.gin"]),
}


def compiled(case: str) -> list[dict[str, Any]]:
    """The figures of every stage of a case."""
    topology, files = CASES[case]
    recipe = configured(parse_flags([f"--gin_file={file}" for file in files], ""), Recipe)
    prepared = prepare(recipe, None, devices=topology_devices(topology))
    on = chip(prepared.mesh.devices.flat[0].device_kind)
    found = []
    for objective in prepared.recipe.objectives:
        begun = time.perf_counter()
        taken = needs(prepared, objective)
        row = {
            "case": case,
            "stage": objective.name,
            "topology": topology,
            "mesh": dict(prepared.mesh.shape),
            "parameters": sum(parameters(prepared.shapes.params[name]) for name in recipe.networks),
            "batch": [recipe.batch_size, recipe.block_length],
            "compile_s": round(time.perf_counter() - begun, 1),
            "fits": isinstance(taken, Needs),
            **asdict(taken),
        }
        if isinstance(taken, Needs) and on is not None:
            least = bounds(taken, on)
            row["bounds"] = {**asdict(least), "step": least.step}
        found.append(row)
    prepared.close()
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """The figures as a table in Markdown."""
    head = "case | stage | slice | mesh | rows x tokens | arguments GiB | temporaries GiB | peak GiB | TFLOP"
    head += " | of the model | GB accessed | GB of HBM | GB sent | least ms: compute, memory, links | MFU at most"
    lines = [f"| {head} |", "|" + " --- |" * (head.count("|") + 1)]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    lines.append(T5X)
    return "\n".join(lines) + "\n"


def _cells(row: dict[str, Any]) -> list[str]:
    mesh = " ".join(f"{name} {size}" for name, size in row["mesh"].items() if size > 1)
    cells = [row["case"], row["stage"], row["topology"], mesh, "{} x {}".format(*row["batch"])]
    if not row["fits"]:
        refusal = f"{row['used'] / 2**30:.4g} of {row['limit'] / 2**30:.4g}: does not fit"
        return [*cells, "", "", refusal, *[""] * 7]
    cells += [f"{row[name] / 2**30:.3g}" for name in ("arguments", "temporaries", "peak")]
    cells += [f"{row['flops'] / 1e12:.4g}", f"{row['model_flops'] / 1e12:.4g}", f"{row['accessed'] / 1e9:.4g}"]
    cells += [f"{row['moved'] / 1e9:.3g}"]
    sent = sum(Collective(**exchange).sent for exchange in row["exchanges"])
    least = row["bounds"]
    times = ", ".join(f"{least[name] * 1e3:.3g}" for name in ("compute", "memory", "links"))
    return [*cells, f"{sent / 1e9:.3g}", times, f"{least['mfu']:.0%}"]


def main() -> None:
    """Compiles the cases that are named, all by default, and writes those beside what the files hold already."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*", choices=[*CASES, []], default=[], metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--json", type=Path, default=HERE / "aot.json")
    parser.add_argument("--table", type=Path, default=HERE / "aot.md")
    parser.add_argument("--alone", action="store_true", help="print one case's figures as JSON, and nothing else")
    given = parser.parse_args()
    if given.alone:
        print(json.dumps(compiled(given.case[0])))
        return
    rows = json.loads(given.json.read_text()) if given.json.exists() else []
    for case in given.case or CASES:
        command = [sys.executable, __file__, case, "--alone"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows = [row for row in rows if row["case"] != case] + json.loads(done.stdout.splitlines()[-1])
        rows.sort(key=lambda row: list(CASES).index(row["case"]))
        given.json.write_text(json.dumps(rows, indent=1) + "\n")
        given.table.write_text(table(rows))
    print(table(rows), end="")


if __name__ == "__main__":
    main()
