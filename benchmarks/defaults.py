"""How long each recipe takes at its default size, and what it learns: python benchmarks/defaults.py [RECIPE ...].

Each is the whole command in a process of its own: cold, with an empty cache (a vocabulary is trained, the text is
tokenised, every step is compiled), and with --warm once more with the cache that this left. The table has the last
validation of every objective beside its yardsticks; --json=FILE keeps it, and --keep=FOLDER the runs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ("spactor", "dual", "gpt_bert", "antlm", "antlm_ltg_bert", "ar2diff", "mile")


def main() -> None:
    """Trains, prints a line for each recipe as it ends, and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", choices=[*RECIPES, []], default=[], metavar="RECIPE")
    parser.add_argument("--warm", action="store_true", help="each once more, with a full cache")
    parser.add_argument("--keep", type=Path, help="a folder for the runs that begin cold, FOLDER/RECIPE")
    parser.add_argument("--json", type=Path, help="a file for the figures, added to those it holds")
    given = parser.parse_args()
    found: dict[str, Any] = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    names = given.recipes or RECIPES
    if given.keep and (held := [name for name in names if (given.keep / name).exists()]):
        parser.error(f"{given.keep} holds a run of {', '.join(held)} already: give another folder.")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["MIXLM_CACHE"] = str(Path(folder) / "cache")
            seconds, scores = train(name, given.keep / name if given.keep else Path(folder) / "cold")
            found[name] = {"cold_s": seconds, **scores}
            if given.warm:
                found[name]["warm_s"] = train(name, Path(folder) / "warm")[0]
        told = [f"{key} {value:.3f}" if key.count("/") else f"{key} {value:.0f}" for key, value in found[name].items()]
        print(name, *told, sep="\n  ", flush=True)
        if given.json:
            given.json.write_text(json.dumps(found, indent=1) + "\n")


def train(name: str, folder: Path) -> tuple[float, dict[str, float]]:
    """Seconds from the command to its end, and the last figure of each loss and its yardsticks."""
    command = [sys.executable, str(ROOT / "launch" / "train.py"), f"--gin_file={name}.gin"]
    begun = time.perf_counter()
    subprocess.run([*command, f"--gin.MODEL_DIR={folder}"], check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - begun
    last: dict[str, float] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        last |= json.loads(line)
    kept = ("validation/", "yardstick/")
    return seconds, {key: value for key, value in last.items() if key.startswith(kept) and key.count("/") <= 2}


if __name__ == "__main__":
    main()
