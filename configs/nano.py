"""The small model that ships with the package, from what scripts/pretrain_nano.py has left in the folder `nano`.

python scripts/pretrain_nano.py nano
facellava train configs/nano.py --out nano/run

The decoder, which is Vicuna in the paper, begins with nothing, and all that is in front of it stays as it is: a
projector and a landmark branch that learn beside it forget what they have learnt before it can read them.
"""

from pathlib import Path

from facellava_jax.experiment import DECODER, DataConfig, Experiment, OptimConfig, Source

config = Experiment(
    start=Path("nano/start"),
    trainable=DECODER,
    data=DataConfig(
        sources=(
            Source(path=Path("nano/faces/data.json")),
            Source(path=Path("nano/faces/found.json"), weight=0.5),  # half of the faces, with landmarks that are found
        ),
        batch_size=16,
        epochs=2,
    ),
    optim=OptimConfig(learning_rate=2e-3, b2=0.98, weight_decay=0.05),
    dtype="float32",
    remat=False,
    checkpoint_every=100,
)
