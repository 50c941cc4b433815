"""Decoding a trained network: autoregressive, beam search, spans, masked and unrolled diffusion."""
