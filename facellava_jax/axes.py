"""The vocabulary of array axes, and the records that carry arrays between modules.

Every axis of every array in the package is named by one of the letters below: in a variable's suffix (`q_BLNH`), in an
einsum string, and in a jaxtyping annotation. Records are NamedTuples, so that JAX maps over them as pytrees.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

AXES = {
    "B": "batch",
    "M": "media of one kind in a sample (images, or clips)",
    "T": "frames",
    "Y": "pixel rows",
    "X": "pixel columns",
    "P": "tokens of a frame (patches, with the CLS token where it is kept)",
    "K": "landmark points (68)",
    "R": "landmark tokens (9 face regions)",
    "C": "tower width",
    "D": "decoder width",
    "F": "feed-forward width",
    "N": "attention heads",
    "H": "head size",
    "G": "key-value heads",
    "L": "sequence",
    "S": "cache slots",
    "V": "vocabulary",
    "E": "visual tokens of a sample",
    "A": "answer slots",
    "I": "layers",
}


class Media(NamedTuple):
    """Images (T = 1) or clips of a batch, M to a sample; unused places hold zeros and nothing points at their tokens.

    Landmarks are (x, y) as fractions of the face crop: pixels of the 256 x 256 crop divided by 256.
    """

    pixels: Float[Array | np.ndarray, "B M T Y X 3"]
    landmarks: Float[Array | np.ndarray, "B M T K 2"]
    has_landmarks: Bool[Array | np.ndarray, "B M"]


class Batch(NamedTuple):
    """Prompts with their media, right-padded to a common length.

    `visual_index` is -1 where a position carries the token of `tokens`, and else the index of one of the sample's
    visual tokens: those of its images in order, then those of its clips. `labels` are the tokens to be predicted, -100
    where nothing is learnt; None where nothing is.
    """

    tokens: Int[Array | np.ndarray, "B L"]
    visual_index: Int[Array | np.ndarray, "B L"]
    lengths: Int[Array | np.ndarray, "B"]
    images: Media | None
    videos: Media | None
    labels: Int[Array | np.ndarray, "B L"] | None = None


class KVCache(NamedTuple):
    """Keys and values of every decoder layer. Keys are stored rotated."""

    k: Float[Array, "I B S G H"]
    v: Float[Array, "I B S G H"]
