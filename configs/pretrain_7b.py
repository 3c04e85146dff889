"""Stage 1 of the paper: the landmark branch alone, drawn anew on Video-LLaVA-7B.

facellava-convert import Video-LLaVA-7B checkpoints/video-llava-7b --init-missing landmarks
facellava train configs/pretrain_7b.py --out runs/pretrain --data.sources.0.path FaceInstruct-1M.json
"""

from pathlib import Path

from facellava_jax.experiment import LANDMARK_BRANCH, DataConfig, Experiment, OptimConfig, Source

config = Experiment(
    start=Path("checkpoints/video-llava-7b"),
    trainable=LANDMARK_BRANCH,
    data=DataConfig(sources=(Source(path=Path("data/faceinstruct.json")),), batch_size=168, workers=4),
    optim=OptimConfig(learning_rate=1e-4),
)
