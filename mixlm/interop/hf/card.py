"""The model card of an export: what it is, how it was trained and what it scored, from the run's own files."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mixlm import __version__, files
from mixlm.api.run import Run
from mixlm.checkpoints.run_dir import RunDir
from mixlm.interop.hf.architectures import Architecture
from mixlm.reports.metrics import VALIDATION
from mixlm.reports.table import fixed

LOADING = {
    "t5": ("T5ForConditionalGeneration", ""),
    "llama": ("LlamaForCausalLM", ""),
    "mixlm": ("AutoModelForCausalLM", ", trust_remote_code=True"),
}


def model_card(run: Run, step: int, architecture: Architecture, weights: Mapping[str, np.ndarray]) -> str:
    """The card as Markdown: how to load it, the last validation, the run's identity, the gin text that trains it."""
    held = RunDir(run.folder).read_identity()
    count = sum(each.size for each in weights.values())
    parts = [
        "---\nlibrary_name: transformers\ntags:\n- mixlm\n---",
        f"# {run.recipe.name}",
        f"`{architecture.config['architectures'][0]}` with {count:,} parameters, trained by mixlm {__version__} to "
        f"step {step:,}.",
        _loading(architecture),
        "## Results",
        _results(run, step),
        "## Training",
        "| | |\n| --- | --- |\n" + "\n".join(f"| {name} | `{_cell(value)}` |" for name, value in _facts(run, held)),
    ]
    if files.read_text(RunDir(run.folder).config).strip():
        parts.append(f"The configuration, whole:\n\n```text\n{files.read_text(RunDir(run.folder).config).strip()}\n```")
    return "\n\n".join(parts) + "\n"


def _loading(architecture: Architecture) -> str:
    name, trust = LOADING[architecture.kind]
    code = f'from transformers import AutoTokenizer, {name}\n\nmodel = {name}.from_pretrained("FOLDER"{trust})\n'
    code += 'tokenizer = AutoTokenizer.from_pretrained("FOLDER")'
    said = f"```python\n{code}\n```"
    if architecture.kind != "mixlm":
        return said
    after = "the token after it (`mntp`)" if architecture.config["shifted"] else "its own token (`mlm`)"
    return (
        f"{said}\n\n`AutoModelForMaskedLM` reads in both directions, and a position predicts {after}. Any class "
        'takes `attention="causal"`, `"bidirectional"`, or `"prefix"` with `prefix_lengths`, a number for each row.'
    )


def _results(run: Run, step: int) -> str:
    """The last validation up to the step, a row for each figure."""
    rows = [row for row in run.metrics.rows if row["step"] <= step and any(VALIDATION in name for name in row)]
    if not rows:
        return "The run was not validated."
    last = rows[-1]
    figures = [(name.removeprefix(VALIDATION), value) for name, value in last.items() if name.startswith(VALIDATION)]
    lines = "\n".join(f"| {name} | {fixed(value, 4)} |" for name, value in figures)
    return f"| validation after step {last['step']:,} | |\n| --- | --- |\n{lines}"


def _facts(run: Run, held: Mapping[str, str]) -> list[tuple[str, Any]]:
    """Fingerprints and the fields of the identity that say what was trained."""
    names = ("curriculum", "optimizer", "batch_size", "lengths", "seed", "tokens", "networks", "dataset")
    facts = [(name, held[name]) for name in held if name in ("vocabulary", "began") or name.startswith("data")]
    return [*((name, held[name]) for name in names if name in held and name != "dataset"), *facts]


def _cell(value: str) -> str:
    return value.replace("|", "\\|")
