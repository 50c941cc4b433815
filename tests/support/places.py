"""Folders that tests read from."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS, GIN, LAUNCH = ROOT / "tests", ROOT / "gin", ROOT / "launch"
GOLDEN = TESTS / "golden"
