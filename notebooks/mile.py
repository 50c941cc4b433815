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
# # MiLe: tokens weighted by the entropy of their prediction
#
# [MiLe](https://arxiv.org/abs/2310.19531) scales each token's cross-entropy by `(1 + H)^gamma`, normalised by its mean,
# where H is the entropy of the prediction. Frequent tokens are soon predicted with certainty and lose weight; rare and
# hard ones gain it. gamma = 0 is plain cross-entropy.
#
# This notebook trains a small sweep over gamma, looks at rare tokens, and loads the results of the longer study. It
# runs from top to bottom in under ten minutes on two CPU cores.

# %%
import os

import mixlm

FAST = os.environ.get("MIXLM_FAST") == "1"  # the smallest size, for tests: everything runs, and nothing is learned
GAMMAS = (0.0, 1.0, 2.0)
STEPS = 8 if FAST else 600  # the study below trained 1,200
SIZE = {"EMB_DIM": 96, "Llama.num_heads": 3, "Llama.mlp_dim": 256, "TASK_FEATURE_LENGTHS": {"targets": 64}}
SIZE |= {"TRAIN_STEPS": STEPS, "BATCH_SIZE": 32, "EVAL_BATCHES": 4, "EVAL_PERIOD": STEPS, "CHECKPOINT_PERIOD": STEPS}
SIZE |= {"VALIDATION": ()}  # what is trained, whose plain cross-entropy is reported beside its loss

# %% [markdown]
# ## What this runtime can do
#
# The ceiling is timed here, the FLOPs are counted in the traced step; compilation comes on top.

# %%
runtime = mixlm.runtime()
print(runtime)
runtime.estimate(one_cell=mixlm.load_recipe("mile.gin", MODEL_DIR="runs/estimate", **SIZE))

# %% [markdown]
# ## The sweep
#
# gamma is an argument of the compiled step, so one program trains every cell; `together` even steps them side by side.
# Whatever the cells are trained with, they are judged in plain cross-entropy.

# %%
study = mixlm.load_study("mile.gin", axes={"GAMMA": GAMMAS}, seeds=1, **SIZE)
trained = mixlm.sweep(study, say=lambda line: None, together=len(GAMMAS))
trained

# %%
found = mixlm.results(trained)
found.table("validation/causal/cross_entropy")

# %% [markdown]
# ## Loss by token frequency
#
# The validation text in eight equal parts, from the tokens that are rarest in the training text to the most frequent.
# On the right, the difference that gamma makes: of one seed each; the study below has five.

# %%
cells = {f"gamma {gamma:g}": trained[cell.name] for gamma, cell in zip(GAMMAS, study.cells)}
mixlm.loss_by_frequency(cells, rows=32 if FAST else 128)

# %% [markdown]
# The bands that validation reports (`FREQUENCY_BANDS`) say the same in three numbers:

# %%
found.table("validation/causal/rarest_5%")

# %% [markdown]
# ## Tokens by their entropy
#
# The darker a token, the less certain the prediction of what stands there, and the more MiLe weighs it. The shades run
# from the lowest entropy of the sentence to its highest, which the legend names.

# %%
SENTENCE = "The Congress of the United States shall meet in December, and the revenue of the Treasury is sufficient."
scores = mixlm.token_scores(cells["gamma 0"], SENTENCE)
scores.shaded("entropy")

# %% [markdown]
# The loss of the same tokens. Entropy is known before the token is; the loss, only after:

# %%
scores.shaded("nats")

# %%
scores

# %% [markdown]
# ## The longer study
#
# 25 cells of 1,200 steps: gamma 0, 0.5, 1, 2 and a focal loss, five seeds each
# (`studies/mile`). Its table comes with mixlm.

# %%
longer = mixlm.results("mile")
longer.table("validation/causal/rarest_5%")

# %%
longer.final("validation/causal/rarest_5%", "GAMMA")

# %%
longer.final("validation/causal", "GAMMA")

# %% [markdown]
# The claims were written down, each with its rule, before a run was made:

# %%
longer.verdicts
