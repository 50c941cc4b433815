# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com)
#
# Upload this file there, and beside it a wheel of mixlm, which `pip wheel --no-deps -w dist .` makes in a checkout.

# %%
# Installs mixlm where it is missing, such as on Colab; all that the runtime has keeps its version.
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("mixlm") is None:
    published, here, has = "", Path.cwd(), {}
    near = [str(each) for each in (here, *here.parents) if (each / "mixlm" / "gin_config").is_dir()]  # a checkout
    near += sorted(map(str, here.glob("mixlm-*.whl")))
    if not near and not published:
        raise ModuleNotFoundError("mixlm is not installed: put a wheel of it beside this notebook and run this again.")
    source = f"{near[0]}[report]" if near else f"mixlm[report] @ git+{published}"
    for each in importlib.metadata.distributions():  # of two versions the first is imported
        has.setdefault(re.sub("[-_.]+", "-", each.name or "").lower(), each.version or "")
    kept = "".join(f"{name}=={version}\n" for name, version in has.items() if re.match(r"\d[\w.+!]*$", version))
    command = [sys.executable, "-m", "pip", "install", "-q", "--constraint=/dev/stdin", source]
    subprocess.run(command, input=kept, text=True, check=True)
    importlib.invalidate_caches()

# %% [markdown]
# # Dual: one network, causal rows and diffusion rows
#
# [Dual-objective language models](https://arxiv.org/abs/2512.14549) train one unchanged decoder on a share `ALPHA` of
# causal rows and otherwise masked diffusion. With a fixed budget of tokens that repeat R times, the paper finds that a
# mixture beats either end, and that more repetition asks for more diffusion.
#
# Here is that grid at a small size, the best share with its interval, and one prompt continued both ways. It runs from
# top to bottom in under ten minutes on two CPU cores; with `MIXLM_FAST=1` everything runs, and nothing is learned.

# %%
import os

import mixlm

FAST = os.environ.get("MIXLM_FAST") == "1"
STEPS, BATCH = (8, 8) if FAST else (300, 16)
ALPHAS, REPEATS = ((1.0, 0.0), (1, 4)) if FAST else ((1.0, 0.75, 0.5, 0.0), (1, 4, 16))
LOSS = "validation/causal"

# %% [markdown]
# ## The grid, from one compiled step
#
# The share of causal rows, the rows that are read and the seed are arguments of the step, so one program trains all
# cells at once (`together`). `REPEATS` passes are made over `BUDGET / REPEATS` unique tokens of the State of the Union
# messages.

# %%
study = mixlm.load_study(
    "studies/dual.gin",
    axes={"ALPHA": ALPHAS, "REPEATS": REPEATS},
    seeds=1,
    STUDY_FOLDER="runs/dual",
    BUDGET=STEPS * BATCH * 64,
    TRAIN_STEPS=STEPS,
    BATCH_SIZE=BATCH,
    EVAL_PERIOD=STEPS // 4,
    CHECKPOINT_PERIOD=STEPS,
    EVAL_BATCHES=2 if FAST else 8,
    LOG_PERIOD=STEPS // 4,
    **{"Study.evaluations": {}},
)

# %% [markdown]
# ## What this runtime can do
#
# FLOPs are counted in the traced step, the ceiling is a matrix product that is timed here, now, on a CPU, T4 or TPU.
# All cells cost the same; compilation comes on top, once.

# %%
runtime = mixlm.runtime()
print(runtime)
runtime.estimate(**{f"one of {len(study.cells)}": study.recipe(study.cells[0])})

# %%
cells = mixlm.sweep(study, together=len(study.cells))
cells

# %% [markdown]
# ## The best share, and the surface
#
# A Gaussian process over both axes, as in the paper, is drawn many times, and each drawn surface has its best share:
# their median and 95% interval. A small grid of one seed makes wide intervals, which is what it can honestly say; with
# fewer than four shares there is no regression, and the best measured cell is given without an interval.

# %%
found = mixlm.results(cells)
best = found.best(LOSS, "ALPHA")
best

# %% [markdown]
# Judged as diffusion, by the same cells:

# %%
found.final("validation/masked_diffusion", "ALPHA")

# %% [markdown]
# ## One prompt, continued both ways
#
# The same parameters read the prompt causally and write token after token:

# %%
both = cells[f"ALPHA={ALPHAS[-2]},REPEATS=1,seed=0"]
PROMPT = "The Congress of the United States"
mixlm.decode(both, PROMPT, how="autoregressive", max_tokens=16, temperature=0.7)

# %% [markdown]
# and, with attention in both directions, unmask sixteen places in eight steps, the most confident first:

# %%
mixlm.decode(both, PROMPT, how="masked", max_tokens=16, steps=8, temperature=0.7, show_steps=True)

# %% [markdown]
# ## The longer study
#
# 780 steps, six shares, four degrees of repetition and three seeds: where its table comes with mixlm it is read here,
# else a sentence says that it is not there.

# %%
try:
    longer = mixlm.results("dual")
except mixlm.UserError as absent:
    longer = None
    print(absent)

# %%
longer and longer.best(LOSS, "ALPHA")

# %%
longer and longer.epochs(LOSS)

# %% [markdown]
# **Try**: another budget, or `AR_LOSS_WEIGHT=2.0`, the released code's weight of causal rows, in the grid's cell; the
# whole study is `mixlm sweep --gin_file=studies/dual.gin`.
