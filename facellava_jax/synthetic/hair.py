"""Hair on the head and in the face, strand by strand."""

import numpy as np
from jaxtyping import Bool, Float64

from .canvas import MIDDLE, Canvas, curve, mix, shift
from .geometry import Head, Points, outline_skull
from .person import Person

# How far it stands off the skull, and how far down it reaches.
VOLUME = {"short": 0.1, "medium": 0.2, "long": 0.2}
END = {"short": 0.1, "medium": 1.15, "long": 2.6}
HANGING, SWEPT, FRINGE = 240, 320, 170  # strands of hair that hangs, is swept to the sides, and falls on the forehead
STRAND = 0.009
BEARD = 500  # hairs on a unit squared


def hang_hair(canvas: Canvas, person: Person, head: Head) -> None:
    """What hangs behind the neck."""
    volume, end = VOLUME[person.hair_length], END[person.hair_length]
    arc = curve(outline_skull(head, canvas.pose, volume))
    wide = 1.14
    side = np.array([[wide, 0.5, -0.8], [wide + 0.04, 0.25 + end / 2, -0.8], [wide - 0.1, end, -0.8]])
    outline = np.concatenate([arc, side, side[::-1] * [-1, 1, 1]])
    canvas.fill(outline, mix(person.hair, (10, 8, 8), 0.35))
    rng = np.random.default_rng((person.number, 1))
    x = rng.uniform(0.5, wide, (HANGING, 1)) * rng.choice([-1, 1], (HANGING, 1))
    y = np.linspace(-0.6, end - 0.02, 12)
    wave = 0.05 * person.wavy * np.sin(5 * y + rng.uniform(0, 6, (HANGING, 1)))
    narrow = 1 - 0.1 * np.clip(2 * y / end - 1, 0, 1) ** 2
    lines = np.stack([x * narrow + wave, np.broadcast_to(y, wave.shape), np.full(wave.shape, -0.8)], axis=-1)
    _paint_strands(canvas, person, lines, rng)


def paint_hair(canvas: Canvas, person: Person, head: Head) -> None:
    """What covers the skull, and falls on the forehead."""
    rng = np.random.default_rng((person.number, 2))
    volume = VOLUME[person.hair_length] + 0.06 * person.wavy
    outer, line = curve(outline_skull(head, canvas.pose, volume)), curve(head.hairline)
    if person.hair_length == "short":
        line[[0, -1], 1] += END["short"]
    elif person.hair_length == "medium":
        line[:, 0] *= 0.97
    rough = rng.normal(0, 0.012, len(line))
    line[:, 1] += rough
    if person.bangs:
        middle = slice(7, len(line) - 7)
        line[middle, 1] = -0.4 + 0.06 * (np.abs(line[middle, 0]) / 0.8) ** 2 + 3 * rough[middle]
    base = mix(person.hair, (10, 8, 8), 0.2)
    canvas.fill(np.concatenate([outer, line[::-1]]), base)
    canvas.shade_line(shift(line, 0, 0.05), 0.45, 0.07, MIDDLE)
    # Strands run beside the hairline from the parting to the ears, and down in a fringe.
    share = rng.random((SWEPT, 1))
    start = (person.parting + 1) / 2 + rng.uniform(-0.08, 0.08, (SWEPT, 1))
    end = np.where(rng.random((SWEPT, 1)) < start, 0.0, 1.0)
    at = start + (end - start) * rng.uniform(0.5, 1, (SWEPT, 1)) * np.linspace(0, 1, 10)
    lines = _between(outer, line, at, share + 0.08 * np.sin(at * 40) * person.wavy)
    _paint_strands(canvas, person, lines, rng)
    if person.bangs:
        where, lean, length = rng.uniform(0.2, 0.8, FRINGE), rng.normal(0, 0.02, FRINGE), rng.uniform(0.85, 1, FRINGE)
        down = np.linspace(0, 1, 6)
        at, fall = where[:, None] + lean[:, None] * down, length[:, None] * (0.35 + 0.68 * down)
        _paint_strands(canvas, person, _between(outer, line, at, fall), rng)


def _between(outer: np.ndarray, inner: np.ndarray, at: np.ndarray, share: np.ndarray) -> Float64[np.ndarray, "n s 3"]:
    """Points at `at` (0 to 1) along two lines, and at `share` of the way from the first to the second."""
    along = np.linspace(0, 1, len(outer))
    ends = [np.stack([np.interp(at, along, line[:, axis]) for axis in range(3)], axis=-1) for line in (outer, inner)]
    share = np.broadcast_to(share, at.shape)[..., None]
    return ends[0] * (1 - share) + ends[1] * share


def _paint_strands(
    canvas: Canvas, person: Person, lines: Float64[np.ndarray, "n s 3"], rng: np.random.Generator
) -> None:
    """In four shades, so that hair is no flat surface; grey comes strand by strand."""
    light, dark = mix(person.hair, (255, 244, 224), 0.22), mix(person.hair, (8, 6, 6), 0.45)
    shades = (dark, mix(person.hair, dark, 0.4), person.hair, light)
    for shade, part in zip(shades, np.array_split(rng.permutation(len(lines)), len(shades)), strict=True):
        canvas.strokes(lines[part], shade, STRAND)


def paint_beard(canvas: Canvas, person: Person, points: Float64[np.ndarray, "K 3"]) -> None:
    """A mustache, a goatee, or a full beard with its mustache."""
    rng = np.random.default_rng((person.number, 3))
    colour = mix(person.hair, (30, 20, 16), 0.3 * (1 - person.grey))
    under, corners = shift(points[33], 0, 0.06), points[[48, 54]]
    regions = []
    if person.beard in ("mustache", "full"):
        left, right = shift(corners[0], -0.06, 0.03), shift(corners[1], 0.06, 0.03)
        lip = shift(points[[49, 51, 53]], 0, -0.015)
        nose = np.array([shift(under, -0.2, 0.0), under, shift(under, 0.2, 0.0)])
        regions.append(np.concatenate([[left], nose, [right], lip[::-1]]))
    if person.beard == "goatee":
        lip, chin = points[57], points[8]
        below = [shift(lip, 0.12, 0.06), shift(lip, -0.12, 0.06), shift(chin, -0.22, -0.22), shift(chin, -0.16, 0)]
        regions.append(np.array([*below, shift(chin, 0, 0.08), shift(chin, 0.16, 0), shift(chin, 0.22, -0.22)]))
    if person.beard == "full":
        jaw = shift(points[1:16] * [1.005, 1, 1], 0, 0.03)
        lip = shift(points[55:60], 0, 0.035)
        before = [shift(points[15], -0.09, 0), shift(points[14], -0.16, -0.02), shift(corners[1], 0.1, -0.02)]
        after = [shift(corners[0], -0.1, -0.02), shift(points[2], 0.16, -0.02), shift(points[1], 0.09, 0)]
        regions.append(np.concatenate([jaw, before, lip[[0, 2, 4]], after]))
    for region in regions:
        canvas.glaze(region, colour, 0.86, 0.03)
        low, high = region.min(axis=0), region.max(axis=0)
        size = high - low
        count = int(BEARD * size[0] * size[1]) + 40
        roots = low + rng.random((count * 2, 3)) * size
        roots[:, 2] = np.interp(np.abs(roots[:, 0]), [0, 0.5, 1], [0.12, -0.1, -0.7])
        roots = roots[_inside(roots, region)][:count]
        lean = np.stack([0.25 * roots[:, 0], np.full(len(roots), 1.0), np.zeros(len(roots))], axis=-1) * 0.07
        lean[:, 0] += rng.normal(0, 0.012, len(roots))
        hairs = np.stack([roots, roots + lean], axis=1)
        _paint_strands(canvas, person, hairs, rng)
        canvas.matt(region)


def _inside(points: Points, outline: Float64[np.ndarray, "m 3"]) -> Bool[np.ndarray, " n"]:
    """Which points lie within an outline, from the front: a line from them to the right crosses it oddly often."""
    x, y = points[:, :1], points[:, 1:2]
    start, end = outline, np.roll(outline, -1, axis=0)
    spans = (start[:, 1] > y) != (end[:, 1] > y)
    rise = np.where(start[:, 1] == end[:, 1], 1.0, end[:, 1] - start[:, 1])
    crossing = start[:, 0] + (y - start[:, 1]) * (end[:, 0] - start[:, 0]) / rise
    return (spans & (x < crossing)).sum(axis=1) % 2 == 1
