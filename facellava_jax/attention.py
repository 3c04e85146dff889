"""What the model looks at: how much of each face region the patches of a picture or clip take in."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float32, Float64, UInt8

from .axes import Media
from .config import REGION_PROJECTOR, ModelConfig
from .data import Visual
from .generate import Generator
from .media import Kind
from .request import PredictError


class Attention(NamedTuple):
    """What the model was shown of a medium, and what its patches look at, as `faces.draw_regions` takes it.

    `weights` are those of `weigh_regions`, `landmarks` pixels of the frames; `padded` where the tower sees the frames
    padded to a square, and not the square in their middle.
    """

    frames: UInt8[np.ndarray, "T Y X 3"]
    weights: Float32[np.ndarray, "T R grid grid"]
    landmarks: Float64[np.ndarray, "T K 2"]
    padded: bool


def weigh_regions(generator: Generator, visual: Visual, config: ModelConfig) -> Float32[np.ndarray, "T R grid grid"]:
    """FRGCA's weights (paper section 3.3) for a medium: how much each patch of each frame takes from each face region.

    Averaged over the heads; the nine shares of a patch sum to 1. Rows and columns are those of the patches in the
    frame as the tower sees it; the CLS token, which lies nowhere in it, is left out.

    Raises PredictError as `check_regions` does, and for a medium that has no landmarks or no tower to see it.
    """
    check_regions(config)
    kind = visual.medium.kind
    tower = config.image_tower if kind == "image" else config.video_tower
    if tower is None:
        raise PredictError(f"this checkpoint has no {kind} tower: import one with --{kind}-tower")
    if visual.landmarks is None:
        raise PredictError(f"the {kind} has no landmarks, and attention goes to them: give its landmarks, too")
    media = Media(visual.pixels[None, None], visual.landmarks[None, None], np.ones((1, 1), bool))
    weights_TPR = np.asarray(_weigh(generator.graphdef, generator.params, media, kind))
    patches_TPR = weights_TPR[:, tower.keep_cls :]
    return np.moveaxis(patches_TPR, 2, 1).reshape(len(patches_TPR), -1, tower.grid_size, tower.grid_size)


def check_regions(config: ModelConfig) -> None:
    """Raises PredictError for a model whose landmark tokens, if it has any, are not those of the nine face regions."""
    landmarks = config.landmarks
    if landmarks is None:
        raise PredictError("this checkpoint has no landmark modules: ask without a picture of its attention")
    if REGION_PROJECTOR not in (landmarks.landmarks_projector, landmarks.global_landmarks_projector):
        raise PredictError(
            "this checkpoint has one landmark token for the whole face, and none for its regions: "
            "ask without a picture of its attention"
        )


@partial(jax.jit, static_argnames=("graphdef", "kind"))
def _weigh(graphdef: nnx.GraphDef, params: nnx.State, media: Media, kind: Kind) -> Float32[Array, "T P R"]:
    model = nnx.merge(graphdef, params)
    tower = model.image_tower if kind == "image" else model.video_tower
    return jnp.squeeze(model.weigh_regions(tower, media), (0, 1))
