"""The order of a run: which records each step reads, from the lists and the recipe alone.

Every batch has one shape out of a few: places for media and a length, both rounded up. It is the same on every host,
with any number of workers, and when a run goes on.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from ..config import ModelConfig
from ..text import bucket
from .batches import Places
from .index import Index
from .records import MAX_MEDIA, DataError

EMPTY = -1  # in the place of a record: a row of nothing


class PlannedBatch(NamedTuple):
    """Records by their numbers in the run, EMPTY where a row has none, and the shape of what is read from them."""

    places: Places
    length: int
    records: Int32[np.ndarray, " B"]


class Epoch(NamedTuple):
    """An epoch's batches: which shape each has, and its records."""

    shapes: Int64[np.ndarray, " S"]
    records: Int32[np.ndarray, "S B"]


class Plan:
    """The batches of a run. Records are numbered through all lists, in the order of these."""

    def __init__(
        self,
        indexes: Sequence[Index],
        lengths: Sequence[Int32[np.ndarray, " _"]],
        weights: Sequence[float],
        *,
        batch_size: int,
        epochs: int,
        seed: int,
    ) -> None:
        """For each list: its index, its records' lengths in tokens, and how often an epoch shows each record.

        Raises DataError where there is no record, or the weights leave none.
        """
        self.batch_size, self.epochs, self.seed = batch_size, epochs, seed
        self.weights = tuple(map(float, weights))  # files of experiments say 2, too
        self.firsts = np.cumsum([0, *map(len, lengths)])
        self.size = int(self.firsts[-1])
        if not self.size:
            raise DataError("there is no record to train on: name lists that have some")
        rows = np.concatenate([_round_up(index, each) for index, each in zip(indexes, lengths, strict=True)])
        self.shapes, groups = np.unique(rows, axis=0, return_inverse=True)
        self._groups = groups.reshape(-1).astype(np.uint16)
        self._ends = np.cumsum([self.count_steps(epoch) for epoch in range(epochs)])
        self.steps = int(self._ends[-1])
        if not self.steps:
            raise DataError("the weights are so low that no record is shown: raise them, or the number of epochs")

    def batch(self, step: int) -> PlannedBatch:
        """The batch of a step from 0 to `steps` - 1."""
        number = int(np.searchsorted(self._ends, step, side="right"))
        epoch = _order_epoch(self, number)
        at = step - (int(self._ends[number - 1]) if number else 0)
        images, videos, length = self.shapes[epoch.shapes[at]].tolist()
        return PlannedBatch(Places(images, videos), length, epoch.records[at])

    def locate(self, number: int) -> tuple[int, int]:
        """The list of a record, and its number in it."""
        place = int(np.searchsorted(self.firsts, number, side="right")) - 1
        return place, number - int(self.firsts[place])

    def show(self, until: int, rows: slice) -> Int64[np.ndarray, " N"]:
        """How often each record stands in some rows of the steps before `until`."""
        shown = np.zeros(self.size, np.int64)
        for number, end in enumerate(self._ends.tolist()):
            begin = int(self._ends[number - 1]) if number else 0
            if begin < until:
                records = _order_epoch(self, number).records[: until - begin, rows]
                shown += np.bincount(records[records != EMPTY], minlength=self.size)
            if end >= until:
                break
        return shown

    @property
    def fingerprint(self) -> str:
        """The same for plans of the same order, over records of the same shapes."""
        digest = hashlib.sha256(repr((self.batch_size, self.seed, self.weights, self.firsts.tolist())).encode())
        for part in (self.shapes, self._groups):
            digest.update(part.tobytes())
        return digest.hexdigest()

    def select(self, epoch: int) -> Int32[np.ndarray, " N"]:
        """The records that an epoch shows, in the order of their lists' shuffled passes.

        A list is gone through in one pass after another, each in an order of its own; an epoch takes as much of this
        stream as the list's weight says.
        """
        chosen = []
        for place, weight in enumerate(self.weights):
            first, size = int(self.firsts[place]), int(self.firsts[place + 1] - self.firsts[place])
            begin, end = (round(number * weight * size) for number in (epoch, epoch + 1))
            for number in range(begin // size, -(-end // size)) if size else ():
                order = _permute(size, self.seed, place, number)
                chosen.append(first + order[max(0, begin - number * size) : end - number * size])
        return np.concatenate([np.zeros(0, np.int32), *chosen]).astype(np.int32)

    def count_steps(self, epoch: int) -> int:
        """The steps that an epoch takes."""
        if all(weight.is_integer() for weight in self.weights):
            if epoch:
                return self.count_steps(0)
            repeats = np.repeat(np.array(self.weights, np.int64), np.diff(self.firsts))
            counts = np.bincount(self._groups, repeats, len(self.shapes)).astype(np.int64)
        else:
            counts = np.bincount(self._groups[self.select(epoch)], minlength=len(self.shapes))
        return int((-(-counts // self.batch_size)).sum())


@lru_cache(maxsize=2)
def _order_epoch(plan: Plan, number: int) -> Epoch:
    records = plan.select(number)
    records = records[_permute(len(records), plan.seed, len(plan.weights), number)]
    groups = plan._groups[records]
    shapes, batches = [], []
    for shape in range(len(plan.shapes)):
        members = records[groups == shape]
        count = -(-len(members) // plan.batch_size)
        padded = np.full(count * plan.batch_size, EMPTY, np.int32)
        padded[: len(members)] = members
        batches.append(padded.reshape(count, plan.batch_size))
        shapes.append(np.full(count, shape))
    order = _permute(sum(map(len, batches)), plan.seed, len(plan.weights) + 1, number)
    return Epoch(np.concatenate(shapes)[order], np.concatenate(batches)[order])


def measure_lengths(index: Index, model: ModelConfig, max_text_length: int, max_length: int) -> Int32[np.ndarray, " N"]:
    """The length of every record in tokens, visual ones counted in, after both cuts."""
    lengths = np.minimum(index.tokens, max_text_length).astype(np.int32)
    appended = model.landmarks.appended_tokens if model.landmarks else 0
    for tower, count, with_landmarks in (
        (model.image_tower, index.images, index.image_landmarks),
        (model.video_tower, index.videos, index.video_landmarks),
    ):
        if tower:
            # A placeholder each is counted already; landmark tokens are appended only where there are landmarks.
            used = (model.slots_per_frame(tower) - 1 - appended) * count.astype(np.int32)
            lengths += tower.num_frames * (used + appended * with_landmarks.astype(np.int32))
    return np.minimum(lengths, max_length)


def _round_up(index: Index, lengths: Int32[np.ndarray, " N"]) -> Int64[np.ndarray, "N 3"]:
    """Images, videos and length of the batch that each record can be in."""
    values, inverse = np.unique(lengths, return_inverse=True)
    buckets = np.array([bucket(value) for value in values.tolist()], np.int64)[inverse]
    places = np.array([Places.of(count, 0).images for count in range(MAX_MEDIA["image"] + 1)])
    return np.stack([places[index.images], index.videos, buckets], axis=1)


def _permute(size: int, *key: int) -> Int64[np.ndarray, " N"]:
    """A random order, by raw bits of a generator whose stream NumPy promises never to change."""
    bits = np.random.Philox(np.random.SeedSequence(key)).random_raw(size)
    return np.argsort(bits, kind="stable")
