"""Flax NNX modules: each a function of its config, with no mesh, device, checkpoint or tokenizer in sight."""
