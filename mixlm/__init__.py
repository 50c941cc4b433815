"""mixlm: pretraining objectives for language models, composed in one JAX train step."""
