"""mixlm: pretraining objectives for language models, composed in one JAX train step."""

__version__ = "0.5.0"
