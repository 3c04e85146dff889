"""Stage 2 of the paper: everything but the towers, from the result of stage 1.

facellava train configs/finetune_7b.py --out runs/finetune --data.sources.0.path FaceInstruct-1M.json
"""

from pathlib import Path

from facellava_jax.experiment import DECODER, LANDMARK_BRANCH, PROJECTOR, DataConfig, Experiment, OptimConfig, Source

config = Experiment(
    start=Path("runs/pretrain/model"),
    trainable=(*LANDMARK_BRANCH, *PROJECTOR, *DECODER),
    data=DataConfig(sources=(Source(path=Path("data/faceinstruct.json")),), batch_size=112, workers=4),
    optim=OptimConfig(learning_rate=2e-5),
)
