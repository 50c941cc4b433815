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
# # AR2Diff: text diffusion from an autoregressive model
#
# [AR2Diff](https://arxiv.org/abs/2401.17181) trains a decoder autoregressively, goes on with text diffusion, and then
# fine-tunes with diffusion. A diffusion model writes all tokens at once and rewrites them a fixed number of times,
# however long the text. Here are three runs on small tasks with exact answers: autoregressive throughout, adapted, and
# diffusion from scratch.
#
# It runs from top to bottom in under ten minutes on two CPU cores; with `MIXLM_FAST=1` everything runs, and nothing is
# learned.

# %%
import os

import mixlm

FAST = os.environ.get("MIXLM_FAST") == "1"
STEM, FINE, PAIRS = (4, 4, 4) if FAST else (400, 600, 32)
DECODINGS = ("autoregressive", *(f"unrolled steps={steps} samples=1" for steps in ((1, 4) if FAST else (1, 5, 10))))

# %% [markdown]
# ## Three ways to a model that answers
#
# Pretraining pairs continue a sentence, spell and repeat; the task asks for a span of a text, or for made words to be
# inflected. `ar` is autoregressive throughout. `ar2diff` begins with the same stem, adapts by diffusion for as long,
# and learns the task by diffusion. `scratch` is diffusion from the first step. Each run's answers to held-out pairs are
# decoded in several ways at the end.

# %%
study = mixlm.load_study(
    "studies/ar2diff.gin",
    axes={"ADAPT": (1.0,)},
    seeds=1,
    STUDY_FOLDER="runs/ar2diff",
    STEM_STEPS=STEM,
    WARMUP_STEPS=min(50, STEM // 2),
    FINE_STEPS=FINE,
    BATCH_SIZE=16 if FAST else 32,
    MADE_PAIRS=1000 if FAST else 6000,
    EVAL_PERIOD=FINE // 4,
    EVAL_BATCHES=1,
    CHECKPOINT_PERIOD=STEM + FINE,
    LOG_PERIOD=FINE // 4,
    DECODINGS=DECODINGS,
    DECODED_PAIRS=PAIRS,
    TIMED_LENGTHS=(),
)

# %% [markdown]
# ## What this runtime can do
#
# FLOPs are counted in the traced step, the ceiling is a matrix product that is timed here, now, on a CPU, T4 or TPU.
# Compilation comes on top, some ten seconds a program on a CPU; `ar` and `ar2diff` share their stem.

# %%
runtime = mixlm.runtime()
print(runtime)
runtime.estimate(**{cell.name.split(",")[0]: study.recipe(cell) for cell in study.cells})

# %%
cells = mixlm.sweep(study)
cells

# %% [markdown]
# ## Loss
#
# A diamond is the switch from autoregressive training to diffusion. `unroll` is the loss of predictions that are made
# from the model's own first guess.

# %%
runs = {cell.split(",")[0]: cells[cell] for cell in cells.states}
mixlm.compare(runs, ["validation/unroll"], ("step", "flops"))

# %% [markdown]
# ## Quality against network calls
#
# Autoregressive decoding calls the network once a token (stars); diffusion calls it as often as one says. So short a
# training answers some pairs exactly: the longer study says how this ends.

# %%
mixlm.results(cells).decodings()

# %% [markdown]
# ## A denoising, step by step
#
# All places begin with random tokens, and each step draws every one anew, given all others. A coloured token has
# changed in that step.

# %%
PROMPT = "w a l o k . past ?"  # asks for: w a l o k a t
mixlm.decode(runs["ar2diff"], PROMPT, how="unrolled", max_tokens=12, steps=6, samples=1, show_steps=True)

# %%
mixlm.decode(runs["scratch"], PROMPT, how="unrolled", max_tokens=12, steps=6, samples=1, show_steps=True)

# %% [markdown]
# ## The longer study
#
# 1,400 to 2,200 steps, four degrees of adaptation and three seeds: where its table comes with mixlm it is read here,
# else a sentence says that it is not there.

# %%
try:
    longer = mixlm.results("ar2diff")
except mixlm.UserError as absent:
    longer = None
    print(absent)

# %%
longer and longer.decodings()

# %% [markdown]
# **Try**: `samples=8` in a decoding, which returns the likeliest of eight, or `axes={"ADAPT": (0.0, 1.0)}`; the whole
# study is `mixlm sweep --gin_file=studies/ar2diff.gin`.
