"""Checkpoints of the PyTorch original: import, export, verify. Stands above `facellava_jax`, which never imports it."""
