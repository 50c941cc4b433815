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
    from mixlm.api.report import report
    from mixlm.api.run import Run
    from mixlm.api.study import Results, StudyRuns, load_study, results, sweep
    from mixlm.errors import UserError
    from mixlm.recipe import Recipe

# The package's metadata takes its version from here: setuptools reads it without importing anything.
__version__ = "0.8.0"
__all__ = [
    "Recipe",
    "Results",
    "Run",
    "StudyRuns",
    "UserError",
    "compare",
    "decode",
    "evaluate",
    "explain",
    "load_recipe",
    "load_study",
    "report",
    "results",
    "sweep",
    "train",
]

_HOMES = {
    "Recipe": "mixlm.recipe",
    "Results": "mixlm.api.study",
    "Run": "mixlm.api.run",
    "StudyRuns": "mixlm.api.study",
    "UserError": "mixlm.errors",
    "compare": "mixlm.api.compare",
    "decode": "mixlm.api.functions",
    "evaluate": "mixlm.api.functions",
    "explain": "mixlm.api.functions",
    "load_recipe": "mixlm.api.functions",
    "load_study": "mixlm.api.study",
    "report": "mixlm.api.report",
    "results": "mixlm.api.study",
    "sweep": "mixlm.api.study",
    "train": "mixlm.api.functions",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mixlm' has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
