"""The small model that ships with the package, from what scripts/pretrain_nano.py has left in the folder `nano`.

python scripts/pretrain_nano.py nano
facellava train configs/nano.py --out nano/run

As in the paper's second stage the towers are frozen; but the decoder, which is Vicuna there, begins with nothing.
"""

from pathlib import Path

from facellava_jax.experiment import (
    DECODER,
    LANDMARK_BRANCH,
    PROJECTOR,
    DataConfig,
    Experiment,
    OptimConfig,
    Source,
)

config = Experiment(
    start=Path("nano/start"),
    trainable=(*LANDMARK_BRANCH, *PROJECTOR, *DECODER),
    data=DataConfig(sources=(Source(path=Path("nano/faces/data.json")),), batch_size=16, epochs=2),
    optim=OptimConfig(learning_rate=2e-3, b2=0.98, weight_decay=0.05),
    dtype="float32",
    remat=False,
    checkpoint_every=100,
)
