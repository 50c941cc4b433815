"""Runs the notebooks' installation cell on Colab's packages, and says what pip would add: python .ci/colab.py [LIST].

LIST is Colab's pip-freeze.txt, by default the one in tests/notebooks. Its packages are there by name and version alone,
which is what pip asks for; nothing is downloaded but what mixlm adds. Fails where pip would replace a package.
"""

import json
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = (3, 13)  # Colab's
CELL = re.compile(r"^# %%\n(.*?)\n\n# %%", re.M | re.S)  # the first one with code
# As flags of pip alone: in the environment they would reach the pip that builds mixlm as well.
DRY = """import subprocess
run = subprocess.run
subprocess.run = lambda command, **rest: run(command + {flags}, **rest)
"""


def main(listed: Path) -> int:
    """Prints a line for each package that pip would install; 1 where Colab has one of them in another version."""
    has = dict(re.findall(r"^([\w.-]+)==(\S+)$", listed.read_text(encoding="utf-8"), re.M))
    cell = CELL.search((ROOT / "notebooks" / "overview.py").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        packages = next(Path(folder).glob("lib/python*/site-packages"))
        for name, version in has.items():
            if not (packages / f"{name}-{version}.dist-info").exists():
                info = packages / f"{name.replace('-', '_')}-{version}.dist-info"
                info.mkdir(exist_ok=True)
                (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        report = Path(folder, "report.json")
        dry = DRY.format(flags=["--dry-run", f"--report={report}"])
        subprocess.run([Path(folder, "bin", "python"), "-c", dry + cell[1]], cwd=ROOT / "notebooks", check=True)
        added = [each["metadata"] for each in json.loads(report.read_text())["install"]]
    plain = {re.sub("[-_.]+", "-", name).lower(): version for name, version in has.items()}
    replaced = 0
    for each in sorted(added, key=lambda each: each["name"].lower()):
        old = plain.get(re.sub("[-_.]+", "-", each["name"]).lower())
        replaced += old is not None
        print(each["name"], each["version"], f"REPLACES {old}" if old else "")
    print(f"{len(added)} packages are added to Colab's {len(has)}, and {replaced} of those are replaced.")
    return int(replaced > 0)


if __name__ == "__main__":
    if sys.version_info[:2] != PYTHON:
        sys.exit("Colab has Python {}.{}: run this with it.".format(*PYTHON))
    sys.exit(main(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "tests" / "notebooks" / "colab.txt"))
