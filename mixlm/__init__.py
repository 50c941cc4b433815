"""Pretraining-objective research in JAX: one sharded train step whose loss composes objectives.

```python
import mixlm

recipe = mixlm.load_recipe("dual.gin", ALPHA=0.25, TRAIN_STEPS=50, MODEL_DIR="runs/a")
run = mixlm.train(recipe)
run.metrics, run.curves(), run.examples()
mixlm.evaluate(run), mixlm.decode(run, ["The Congress"], how="masked")
```

Names are imported when they are first used (PEP 562): importing mixlm imports neither JAX nor NumPy.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixlm.api.compare import compare
    from mixlm.api.functions import decode, evaluate, explain, load_recipe, train
    from mixlm.api.judge import Judgement, judge
    from mixlm.api.objectives import attention_masks, corrupt, loss_terms
    from mixlm.api.report import report
    from mixlm.api.run import Run
    from mixlm.api.runtime import Runtime, runtime
    from mixlm.api.study import Results, StudyRuns, load_study, results, sweep
    from mixlm.api.tokens import TokenScores, loss_by_frequency, token_scores
    from mixlm.errors import UserError
    from mixlm.interop.hf.export import export
    from mixlm.recipe import Recipe

# The package's metadata takes its version from here: setuptools reads it without importing anything.
__version__ = "0.8.0"
__all__ = [
    "Judgement",
    "Recipe",
    "Results",
    "Run",
    "Runtime",
    "StudyRuns",
    "TokenScores",
    "UserError",
    "attention_masks",
    "compare",
    "corrupt",
    "decode",
    "evaluate",
    "explain",
    "export",
    "judge",
    "load_recipe",
    "load_study",
    "loss_by_frequency",
    "loss_terms",
    "report",
    "results",
    "runtime",
    "sweep",
    "token_scores",
    "train",
]

_HOMES = {
    "Judgement": "mixlm.api.judge",
    "Recipe": "mixlm.recipe",
    "Results": "mixlm.api.study",
    "Run": "mixlm.api.run",
    "Runtime": "mixlm.api.runtime",
    "StudyRuns": "mixlm.api.study",
    "TokenScores": "mixlm.api.tokens",
    "UserError": "mixlm.errors",
    "attention_masks": "mixlm.api.objectives",
    "compare": "mixlm.api.compare",
    "corrupt": "mixlm.api.objectives",
    "decode": "mixlm.api.functions",
    "evaluate": "mixlm.api.functions",
    "explain": "mixlm.api.functions",
    "export": "mixlm.interop.hf.export",
    "judge": "mixlm.api.judge",
    "load_recipe": "mixlm.api.functions",
    "load_study": "mixlm.api.study",
    "loss_by_frequency": "mixlm.api.tokens",
    "loss_terms": "mixlm.api.objectives",
    "report": "mixlm.api.report",
    "results": "mixlm.api.study",
    "runtime": "mixlm.api.runtime",
    "sweep": "mixlm.api.study",
    "token_scores": "mixlm.api.tokens",
    "train": "mixlm.api.functions",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mixlm' has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
