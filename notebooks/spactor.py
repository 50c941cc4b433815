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
# # SpacTor: replaced-token detection first, then span corruption
#
# [SpacTor-T5](https://arxiv.org/abs/2401.13160) trains span corruption together with replaced-token detection for the
# first `TAU` steps, and span corruption alone after that. Here one stem is trained on both, and a second run leaves it
# at `TAU`; a third never detects anything. Then you look at what the discriminator believes of each token.
#
# It runs from top to bottom in under ten minutes on two CPU cores; with `MIXLM_FAST=1` everything runs, and nothing is
# learned.

# %%
import os

import mixlm

FAST = os.environ.get("MIXLM_FAST") == "1"
STEPS, TAU, PERIOD = (8, 4, 4) if FAST else (1000, 300, 100)
SIZES = {"TRAIN_STEPS": STEPS, "EVAL_PERIOD": PERIOD, "EVAL_BATCHES": 4, "LOG_PERIOD": PERIOD // 2, "BATCH_SIZE": 32}
LOSS = "validation/span_corruption"

# %% [markdown]
# ## A stem and its fork
#
# The cells differ in `TAU` alone: 0 is T5's own objective, the last one is hybrid throughout. That one is the stem: it
# keeps its checkpoint at `TAU`, where the fork begins with its optimizer, so the shared steps are trained once. The
# detection loss has the weight 50 of ELECTRA here, since so small a discriminator learns little at the 10 of the study.

# %%
study = mixlm.load_study(
    "studies/spactor.gin",
    axes={"TAU": (0, TAU, STEPS)},
    seeds=1,
    SMALL=True,
    LAMBDA1=50.0,
    STUDY_FOLDER="runs/spactor",
    **SIZES,
)

# %% [markdown]
# ## What this runtime can do
#
# FLOPs are counted in the traced step, the ceiling is a matrix product that is timed here, now, on a CPU, T4 or TPU.
# Compilation comes on top, some ten seconds a program on a CPU; what the fork shares with the stem is trained once.

# %%
runtime = mixlm.runtime()
print(runtime)
runtime.estimate(**{f"TAU {cell.values['TAU']}": study.recipe(cell) for cell in study.cells})

# %%
cells = mixlm.sweep(study)
cells

# %% [markdown]
# ## Loss against steps and against FLOPs
#
# A hybrid step costs more: it runs the generator and the head as well. So the curves against FLOPs are the fair ones.
# The diamond is the switch.

# %%
runs = {f"TAU {tau}": cells[f"spactor,TAU={tau},seed=0"] for tau in (0, TAU, STEPS)}
mixlm.compare(runs, LOSS, ("step", "flops"))

# %%
mixlm.results(cells).table(LOSS)

# %% [markdown]
# ## What the discriminator believes
#
# The encoder reads text in which the generator has replaced some tokens (underlined, what stood there is struck out).
# The shade is the probability that the discriminator gives to "replaced", after every step of the stem, from the lowest
# of these rows to the highest: the legend says which. Early on all are about one in eight, the share that is replaced.

# %%
runs[f"TAU {STEPS}"].beliefs(3)

# %% [markdown]
# The same rows at the switch, where the fork leaves the detector behind; the shades have a range of their own:

# %%
mixlm.Run(f"{runs[f'TAU {STEPS}'].folder}@{TAU}").beliefs(3)

# %% [markdown]
# ## The longer study
#
# 1,600 steps, three seeds, five values of `TAU` and two more arms: 21 runs that come with mixlm as a table. Bands and
# bars are 95% intervals. All means lie as the paper says, and three seeds do not tell them apart.

# %%
found = mixlm.results("spactor")
found.table(LOSS)

# %%
found.curves(LOSS)

# %%
for row in found.verdicts:
    print(f"{row['verdict']:>9}  {row['claim']}")

# %% [markdown]
# **Try**: another `TAU`, `LAMBDA1=10.0`, or `seeds=3` in the first cells; the whole study is
# `mixlm sweep --gin_file=studies/spactor.gin`.
