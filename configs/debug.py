"""A tiny model drawn from a seed, trained for 24 steps on faces that it renders itself: a minute or two on a CPU."""

from typing import Any

from facellava_jax.config import NANO, Config, DecoderConfig, ModelConfig, TextConfig, TowerConfig
from facellava_jax.experiment import DataConfig, Experiment, OptimConfig, Rendering

SIZES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
PICTURE: dict[str, Any] = {"image_size": 28, "patch_size": 14}

config = Experiment(
    model=Config(
        model=ModelConfig(
            image_tower=TowerConfig(**SIZES, **PICTURE),
            video_tower=TowerConfig(**SIZES, **PICTURE, num_frames=2, add_time_attn=True, keep_cls=True),
            decoder=DecoderConfig(**SIZES, num_key_value_heads=2, vocab_size=1000),
        ),
        # Cut short: few lengths, and little to compile.
        text=TextConfig(max_length=128),
    ),
    tokenizer=NANO / "tokenizer",
    trainable=("*",),
    data=DataConfig(rendering=Rendering(samples=192, frames=2), batch_size=8),
    optim=OptimConfig(learning_rate=1e-2),
    dtype="float32",
    remat=False,
    steps=24,
    checkpoint_every=4,
)
