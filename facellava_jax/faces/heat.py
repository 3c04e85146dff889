"""What the model looks at, laid over the face: a heat map for each of the nine regions."""

import math
from types import ModuleType

import numpy as np
from jaxtyping import Float, Float32, UInt8

from ..config import REGIONS
from ..extras import require
from ..media import LANDMARK_CROP
from .crop import cut_window, seen_window, to_crop
from .draw import BORDER, COLOURS, draw_landmarks, tile_pictures, write_text

SIDE = LANDMARK_CROP  # of each square of the picture, in pixels
HEADER, FOOTER = 30, 44  # heights of the strips with the regions' names and with the scale
INK = (235, 235, 235)
OPACITY = 0.85  # of the highest weight; the lowest lets all of the frame through
BAR = (SIDE // 2, 5 * SIDE // 2)  # of the scale, from and to column


def draw_regions(
    frames: UInt8[np.ndarray, "T Y X 3"],
    weights: Float32[np.ndarray, "T R grid grid"],
    landmarks: Float[np.ndarray, "T K 2"],
    padded: bool = False,
) -> UInt8[np.ndarray, "Y2 X2 3"]:
    """A row for each frame: the frame with its landmarks, then for each region where on the frame it is looked at.

    `weights` are those of `weigh_regions`: of each patch, the shares of the nine regions, 1/9 each where it prefers
    none. Colours run from the lowest to the highest of the whole picture, so that all its squares compare; the scale
    below says which these are. `landmarks` are pixels of the frames.

    A tower sees the middle square of a frame, as wide as the frame's short side is long, which is the whole of a square
    crop; that is what is shown, and the weights' grid spans it. With `padded` it is the long side's square, as for
    pictures where `media.pad_to_square` is on; the frame's border is repeated where the tower sees one colour.
    """
    cv2 = require("cv2", "faces")
    window = seen_window(*frames.shape[1:3], padded=padded)
    lowest, highest = float(weights.min()), float(weights.max())
    levels = (weights - lowest) / ((highest - lowest) or 1.0)
    squares = []
    for frame, frame_levels, points in zip(frames, levels, to_crop(landmarks, window), strict=True):
        seen = cut_window(frame, window, "centered")
        grey = cv2.cvtColor(cv2.cvtColor(seen, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        draw_landmarks(cv2, seen, points, radius=2.0)
        squares.append(seen)
        for region, level in zip(REGIONS, frame_levels, strict=True):
            enlarged = cv2.resize(level, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST_EXACT)
            heated = lay_heat(cv2, grey, enlarged)
            draw_landmarks(cv2, heated, points, radius=1.5, regions=[region])
            squares.append(heated)
    tiled = tile_pictures(squares, 1 + len(REGIONS))
    header, footer = (np.zeros((height, tiled.shape[1], 3), np.uint8) for height in (HEADER, FOOTER))
    for column, (name, colour) in enumerate([("landmarks", INK), *COLOURS.items()]):
        write_text(cv2, header, name, (column * (SIDE + BORDER) + BORDER + 4, HEADER - 9), colour, 1.0)
    _draw_scale(cv2, footer, lowest, highest)
    return np.concatenate([header, tiled, footer])


def lay_heat(
    cv2: ModuleType, picture: UInt8[np.ndarray, "Y X 3"], level: Float32[np.ndarray, "Y X"]
) -> UInt8[np.ndarray, "Y X 3"]:
    """The picture under the colours of levels from 0, which let it through, to 1."""
    shades = cv2.applyColorMap(np.rint(level * 255).astype(np.uint8), cv2.COLORMAP_PLASMA)
    opacity = OPACITY * level[..., None]
    blended = (1 - opacity) * picture + opacity * cv2.cvtColor(shades, cv2.COLOR_BGR2RGB)
    return np.rint(blended).astype(np.uint8)


def _draw_scale(cv2: ModuleType, strip: np.ndarray, lowest: float, highest: float) -> None:
    """Draws what the colours stand for: the lowest and the highest share, and between them a mark at the even one."""
    spread, even = highest - lowest, np.float32(1 / len(REGIONS))
    digits = max(2, 1 - math.floor(math.log10(spread))) if spread else 6
    left, right, base = BAR[0], BAR[1], HEADER - 2
    bar = strip[8:-8, left:right]
    grey = np.full_like(bar, 128)
    bar[:] = lay_heat(cv2, grey, np.tile(np.linspace(0, 1, right - left, dtype=np.float32), (len(bar), 1)))
    if lowest <= even <= highest and spread:
        at = left + round((even - lowest) / spread * (right - left - 1))
        strip[4:-4, at - 1 : at + 2] = INK
    share = "share of a region in what a patch takes in; the mark: 1/9, no preference"
    for text, x in ((f"{lowest:.{digits}f}", 8), (f"{highest:.{digits}f}", right + 10), (share, right + 150)):
        write_text(cv2, strip, text, (x, base), INK, 0.9)
