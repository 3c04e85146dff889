"""The small model that ships with the package: drawn from a seed, trained on faces that it renders itself.

It is made for two CPU cores and three hours, in pieces: again with the same folder it goes on where it stopped.
"""

from facellava_jax.config import NANO, nano
from facellava_jax.experiment import DataConfig, Experiment, OptimConfig, Rendering

config = Experiment(
    model=nano(),
    tokenizer=NANO / "tokenizer",
    trainable=("*",),
    fit_landmarks=True,
    data=DataConfig(rendering=Rendering(samples=20_000), batch_size=16, epochs=5),
    optim=OptimConfig(learning_rate=1e-3, b2=0.98, weight_decay=0.05),
    dtype="float32",
    remat=False,
    checkpoint_every=100,
)
