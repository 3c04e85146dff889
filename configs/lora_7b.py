"""Stage 2 as the paper's figure has it: LoRA on the decoder, beside the landmark branch and the projector.

facellava train configs/lora_7b.py --out runs/lora --data.sources.0.path FaceInstruct-1M.json
"""

from pathlib import Path

from facellava_jax.config import LoraConfig
from facellava_jax.experiment import LANDMARK_BRANCH, PROJECTOR, DataConfig, Experiment, OptimConfig, Source

config = Experiment(
    start=Path("runs/pretrain/model"),
    trainable=(*LANDMARK_BRANCH, *PROJECTOR),
    lora=LoraConfig(rank=128, alpha=256.0),
    data=DataConfig(sources=(Source(path=Path("data/faceinstruct.json")),), batch_size=112, workers=4),
    optim=OptimConfig(learning_rate=2e-5),
)
