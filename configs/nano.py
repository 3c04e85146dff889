"""The small model that ships with the package: drawn from a seed, trained on faces that it renders itself.

It is made for two CPU cores and three hours, in pieces: again with the same folder it goes on where it stopped.
"""

from pathlib import Path
from typing import Any

import facellava_jax
from facellava_jax.config import Config, DecoderConfig, LandmarkConfig, ModelConfig, TextConfig, TowerConfig
from facellava_jax.experiment import DataConfig, Experiment, OptimConfig, Rendering

TOWER: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 96,
    "patch_size": 16,
    "select_layer": -1,
}

config = Experiment(
    model=Config(
        model=ModelConfig(
            image_tower=TowerConfig(**TOWER),
            video_tower=TowerConfig(**TOWER, num_frames=8, add_time_attn=True, keep_cls=True),
            # The global token through a small network, and in the prompt: what a width of 192 can tell of 68 points.
            landmarks=LandmarkConfig(
                global_landmarks_projector="mlp2x_gelu", residual_scale=1.0, use_landmark_tokens=True
            ),
            decoder=DecoderConfig(
                hidden_size=192,
                intermediate_size=512,
                num_hidden_layers=4,
                num_attention_heads=6,
                num_key_value_heads=6,
                vocab_size=1000,
                max_position_embeddings=1024,
            ),
        ),
        # Asked as it was trained.
        text=TextConfig(template="v1", joint="", max_length=1024),
    ),
    tokenizer=Path(facellava_jax.__file__).parent / "nano" / "tokenizer",
    trainable=("*",),
    data=DataConfig(rendering=Rendering(samples=16_000), batch_size=32, epochs=5),
    # In parts, because attention holds its scores for the backward pass.
    optim=OptimConfig(learning_rate=1e-3, weight_decay=0.05, accumulate=2),
    dtype="float32",
    remat=False,
    checkpoint_every=100,
)
