"""What a run is about to read, in numbers."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from .index import Index
from .plan import Plan


def summarize(plan: Plan, indexes: Sequence[Index], lengths: Sequence[np.ndarray], damaged: int) -> Iterator[str]:
    """Two lines: the records, and the batches that they make."""
    kinds: dict[str, int] = {}
    for index in indexes:
        kinds |= {kind: count + kinds.get(kind, 0) for kind, count in count_kinds(index).items()}
    yield f"data: {plan.size:,} records ({list_kinds(kinds)}), known to be damaged: {damaged:,}"
    yield (
        f"an epoch: {plan.count_steps(0):,} steps of {plan.batch_size:,}, in {len(plan.shapes):,} shapes, "
        f"padding {measure_padding(plan, lengths):.0%}"
    )


def count_kinds(index: Index) -> dict[str, int]:
    """How many records there are of each kind, such as `1 video and 2 images`; the most frequent first."""
    pairs, counts = np.unique(np.stack([index.videos, index.images]), axis=1, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {_name_kind(*pairs[:, at].tolist()): int(counts[at]) for at in order}


def list_kinds(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} of {kind}" for kind, count in kinds.items())


def measure_padding(plan: Plan, lengths: Sequence[np.ndarray]) -> float:
    """The share of padding in the first epoch's tokens."""
    shown = np.concatenate(lengths)[plan.select(0)].sum(dtype=int)
    laid_out = sum(plan.batch(step).length for step in range(plan.count_steps(0))) * plan.batch_size
    return float(1 - shown / laid_out) if laid_out else 0.0


def _name_kind(videos: int, images: int) -> str:
    parts = [f"{count} {name}{'s' * (count > 1)}" for count, name in ((videos, "video"), (images, "image")) if count]
    return " and ".join(parts) or "text alone"
