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
# # AntLM and GPT-BERT: causal and masked, in turn or at once
#
# [AntLM](https://arxiv.org/abs/2412.03275) alternates blocks of causal and masked epochs, each with its own attention
# mask. [GPT-BERT](https://arxiv.org/abs/2410.24159) mixes both in every batch, one causal row to fifteen masked ones.
# Here both are trained on a made language whose agreement is known, and you judge a minimal pair of your own.
#
# It runs from top to bottom in under ten minutes on two CPU cores; with `MIXLM_FAST=1` everything runs, and nothing is
# learned.

# %%
import os

import mixlm

FAST = os.environ.get("MIXLM_FAST") == "1"
UNIQUE, SCHEDULE, PERIOD = (1000, "1 clm, 1 mlm, 1 clm", 1) if FAST else (50000, "2 clm, 6 mlm, 2 clm", 40)
SIZES = {
    "BATCH_SIZE": 16,
    "TASK_FEATURE_LENGTHS": {"targets": 64},
    "EVAL_PERIOD": PERIOD,
    "EVAL_BATCHES": 4,
    "LOG_PERIOD": PERIOD,
    "UNIQUE_TOKENS": UNIQUE,
    "MADE_DOCUMENTS": 1000,
}

# %% [markdown]
# ## What this runtime can do
#
# FLOPs are counted in the traced step, the ceiling is a matrix product that is timed here, now, on a CPU, T4 or TPU.
# Compilation comes on top, some ten seconds a program on a CPU. GPT-BERT is trained for as many steps below.

# %%
blocks = mixlm.load_recipe("antlm.gin", "data/made.gin", SCHEDULE=SCHEDULE, MODEL_DIR="runs/antlm", **SIZES)
runtime = mixlm.runtime()
print(runtime)
runtime.estimate(antlm=blocks)

# %% [markdown]
# ## Blocks of epochs
#
# The schedule is text: so many epochs of one objective, then of the other. The optimizer goes on over a switch.

# %%
antlm = mixlm.train(blocks, say=lambda line: None)
print(antlm)

# %% [markdown]
# ## Both at once
#
# As many steps of GPT-BERT's mixture, in its own network: one row in sixteen is causal.

# %%
steps = antlm.step
mixture = mixlm.load_recipe("gpt_bert.gin", "data/made.gin", TRAIN_STEPS=steps, MODEL_DIR="runs/gpt_bert", **SIZES)
gpt_bert = mixlm.train(mixture, say=lambda line: None)
print(gpt_bert)

# %% [markdown]
# ## Validation by mode
#
# Each run is validated in both modes all along, whatever it is trained on just then. A diamond is a switch: watch what
# the mode that is not trained does after it. The masked losses of the two recipes predict a token at its own place and
# at the one before it, so compare each with itself.

# %%
mixlm.compare(
    {"AntLM, in blocks": antlm, "GPT-BERT, 1 to 15": gpt_bert},
    ["validation/causal", "validation/masked_lm"],
    "epoch",
)

# %% [markdown]
# ## A minimal pair of your own
#
# Change the two sentences: the made language knows words such as *king, sister, horse, tower, above, sleeps, waits*.
# The likelier sentence wins, by reading it causally, and by masking each token in turn (pseudo-likelihood), shifted or
# at its own place. Modes that a run was not trained in are there as well.

# %%
GOOD = "The king above the towers sleeps."  # @param {type:"string"}
BAD = "The king above the towers sleep."  # @param {type:"string"}

# %%
mixlm.judge(antlm, GOOD, BAD)

# %%
mixlm.judge(gpt_bert, GOOD, BAD)

# %% [markdown]
# Token by token, where the pair is decided:

# %%
mixlm.judge(antlm, GOOD, BAD, "causal").shaded("causal")

# %% [markdown]
# ## The longer study
#
# 24 epochs, two networks, four schedules, three seeds, 1,600 minimal pairs: a table that comes with mixlm. Each switch
# forgets what the other objective had learned.

# %%
longer = mixlm.results("antlm")
longer.table("evaluation/pairs/causal/pairs")

# %%
longer.epochs("validation/masked_lm")

# %%
for row in longer.verdicts:
    print(f"{row['verdict']:>9}  {row['claim']}")

# %% [markdown]
# **Try**: `SCHEDULE = "10 clm"` or the reverse, `CAUSAL_SHARE=0.5` for GPT-BERT, and pairs from a folder of BLiMP with
# `mixlm.evaluate(antlm, minimal_pairs="FOLDER")`.
