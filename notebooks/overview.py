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
# # Objectives, one sentence at a time
#
# A pretraining objective decides what a network reads, whom each token may attend to, and which tokens are scored.
# This notebook shows one sentence under the objectives of six papers, looks closer at the one that you pick, then
# trains, scores and decodes a small model. It runs from top to bottom in under ten minutes on two CPU cores; a GPU or
# TPU needs less.

# %%
import os

import mixlm

FAST = os.environ.get("MIXLM_FAST") == "1"  # the smallest size, for tests: everything runs, and nothing is learned
STEPS = 8 if FAST else 1000  # more steps, better text: 1,200 are what the study in the notebook `mile` trained
SENTENCE = "The Congress shall meet in December, and the President shall give it information."
PICKED = "dual"  # @param ["dual", "spactor", "gpt_bert", "antlm", "ar2diff", "mile"]

# %% [markdown]
# ## What this runtime can do
#
# FLOPs are counted in the traced train step; the ceiling is a matrix product that is timed here, now. `about` is an
# estimate from both, without compilation, which takes some ten seconds a program on a CPU, and less the second time.

# %%
SMALL = {"EMB_DIM": 96, "Llama.num_heads": 3, "Llama.mlp_dim": 256, "TASK_FEATURE_LENGTHS": {"targets": 64}}
SMALL |= {"TRAIN_STEPS": STEPS, "BATCH_SIZE": 32, "LOG_PERIOD": 4 if FAST else 50}
SMALL |= {"EVAL_BATCHES": 4, "EVAL_PERIOD": STEPS // 4, "CHECKPOINT_PERIOD": STEPS, "VALIDATION": ()}
recipe = mixlm.load_recipe("mile.gin", MODEL_DIR="runs/overview", **SMALL)

runtime = mixlm.runtime()
print(runtime)
runtime.estimate(mile=recipe)

# %% [markdown]
# ## One sentence, corrupted
#
# Nothing is trained yet: a vocabulary is made of the text that comes with mixlm, once. Yellow tokens are masked, grey
# ones are the sentinels of spans, blue ones are scored.
#
# `dual` trains half of the rows causally and half by masked diffusion; two copies of the sentence show both.

# %%
names = ("dual", "spactor", "gpt_bert", "antlm", "ar2diff", "mile")
recipes = {name: mixlm.load_recipe(f"{name}.gin") for name in names}
mixlm.corrupt(recipes["dual"], SENTENCE, rows=2)

# %% [markdown]
# `spactor` cuts spans out and replaces further tokens with a generator's samples (here still masks), which a
# discriminator is to find; then it goes on with the spans alone.

# %%
mixlm.corrupt(recipes["spactor"], SENTENCE, rows=1)

# %% [markdown]
# `gpt_bert` masks in 15 of 16 rows and predicts the masked tokens one position earlier, as a causal model would;
# `ar2diff` continues prefixes first, then unrolls diffusion: any token may be noise, and all are scored.

# %%
mixlm.corrupt(recipes["gpt_bert"], SENTENCE, rows=1)

# %%
mixlm.corrupt(recipes["ar2diff"], SENTENCE, rows=1)

# %% [markdown]
# `antlm` takes turns between causal and masked epochs, and `mile` reads causally: it changes the loss alone.

# %%
mixlm.corrupt(recipes["antlm"], SENTENCE, rows=1)

# %%
mixlm.corrupt(recipes["mile"], SENTENCE, rows=1)

# %% [markdown]
# ## The same sentence as attention masks
#
# A row is a token that attends, a column one that is attended to. Causal rows see their past alone, rows of diffusion
# everything; where a row is dark, its prediction is scored. `PICKED`, above, is the objective that is looked at here.

# %%
mixlm.attention_masks(recipes[PICKED], SENTENCE, rows=2)

# %% [markdown]
# An encoder-decoder has three: the encoder sees all of its text, the decoder all of the encoder's and its own past.

# %%
mixlm.attention_masks(recipes["spactor"], SENTENCE, rows=1)

# %% [markdown]
# ## Its loss terms
#
# A loss is the sum of `weight * total / count` over its terms. A network that knows nothing pays about
# log V = log 1024 = 6.93 nats for each token. Terms of weight 0 are only reported.

# %%
mixlm.loss_terms(recipes[PICKED], SENTENCE, rows=2)

# %% [markdown]
# ## A run
#
# `mile` is causal, with each token's loss weighted by the entropy of its prediction. The run is a folder: stopped, it
# goes on with the same call, bit for bit.

# %%
run = mixlm.train(recipe)
run

# %% [markdown]
# Each validation row, as the objective makes it, with what the model now predicts at every place:

# %%
run.examples(rows=1)

# %% [markdown]
# ## Scored
#
# The network can be read causally, by a prefix or masked, whatever it was trained for. `prefix` scores the second half
# of each row given the first, so its tokens are others than those of `causal`.

# %%
mixlm.evaluate(run, modes=["causal", "prefix"], rows=16)

# %% [markdown]
# Minimal pairs of a made language, whose grammar is known by construction, want another text; `mixlm evaluate` takes
# BLiMP. Here is a text of one's own:

# %%
mixlm.evaluate(run, text=SENTENCE, modes="causal")

# %% [markdown]
# ## Decoded

# %%
mixlm.decode(run, ["The Congress", "The people of the United States"], max_tokens=24, temperature=0.7)

# %% [markdown]
# How fast it was; FLOPs of a token are those of the estimate above, divided by the tokens.

# %%
run.metrics.select("step", "loss", "tokens", "flops", "tokens_per_second")
