"""Attention masks, and the kernels that attention is dispatched to."""
