# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/mixlm/blob/main/notebooks/your_own.ipynb)

# %%
# Installs mixlm where it is missing, such as on Colab; what the runtime already has keeps its version.
import importlib.metadata
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("mixlm") is None:
    kept = {"jax", "jaxlib", "flax", "numpy", "tensorflow"}
    pins = [f"{each.name}=={each.version}" for each in importlib.metadata.distributions() if each.name in kept]
    source = "mixlm[report] @ git+https://github.com/OWNER/mixlm"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source, *pins], check=True)

# %% [markdown]
# # Your text, your objective, your sweep
#
# Thin for a start.

# %%
import os

import mixlm

FAST = os.environ.get("MIXLM_FAST") == "1"  # the smallest size: everything runs, and nothing is learned
print("mixlm", mixlm.__version__)
