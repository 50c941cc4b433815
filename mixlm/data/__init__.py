"""From text to rows of tokens, on the host alone: no module here imports JAX.

A source (`sources`) gives documents, split into train and validation. A task (`tasks`, `seqio_task`) tokenises them
with a vocabulary (`vocabulary`, `vocabularies`); only the Tasks of seqio's registry are tokenised by seqio. A dataset
(`dataset`) or a mixture of several (`mixture`) tokenises each task once into a memory-mapped token store (`store`).
Batches (`loader`) are a function of the seed and the step alone: epochs of one unique set, interleaved by rates.
"""
