"""Checkpoints of a run (Orbax): all that a resume needs beside the frozen parameters, which stay where they are."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import orbax.checkpoint as ocp

from ..checkpoint import silence_orbax
from ..step import TrainState
from .folder import CHECKPOINTS, RunError


class Checkpoints:
    """The folders RUN/checkpoints/STEP: `state` (what trains, the optimizer, the step) and `position`.

    A step draws no random numbers, so that there are no keys to keep. They are written while the run goes on; one that
    a killed process left half-written has no name yet, and goes.
    """

    def __init__(self, run: Path, keep: int) -> None:
        self.folder = run / CHECKPOINTS
        self.good: int | None = None
        """The newest step that this process has saved or restored."""
        self._silence = contextlib.ExitStack()
        self._silence.enter_context(silence_orbax())
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        # Resolved, because tensorstore takes no path with `..`.
        self._manager = ocp.CheckpointManager(self.folder.resolve(), options=options)

    @property
    def last(self) -> int | None:
        """The newest step that is saved, or is being saved."""
        return self._manager.latest_step()

    def save(self, state: TrainState, step: int, position: dict[str, Any]) -> None:
        """Copies the state, and writes it in the background. `position` is what `restore` gives back.

        Raises RunError where the one before could not be written.
        """
        # One of this step or later is damaged: the run went on from an earlier one.
        with self._reporting():
            for damaged in [saved for saved in self._manager.all_steps() if saved >= step]:
                self._manager.delete(damaged)
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(_changing(state)), position=ocp.args.JsonSave(position)
                ),
                force=True,
            )
        self.good = step

    def restore(self, state: TrainState, say: Callable[[str], None]) -> tuple[TrainState, dict[str, Any] | None]:
        """The newest checkpoint that is whole, in the places of `state`, with its position; where there is none,
        `state` and None.

        All of `state` but its frozen parameters is given away. Raises RunError where there are checkpoints and none is
        whole.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        if not steps:
            return state, None
        changing = _changing(state)
        places = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), changing)
        for array in jax.tree.leaves(changing):
            array.delete()
        for step in steps:
            try:
                restored = self._manager.restore(
                    step,
                    args=ocp.args.Composite(state=ocp.args.StandardRestore(places), position=ocp.args.JsonRestore()),
                )
            # Whatever a damaged file makes Orbax and its readers raise.
            except Exception as error:
                say(f"{self.folder / str(step)} is damaged and passed over ({_shorten(error)})")
            else:
                self.good = step
                return TrainState(frozen=state.frozen, **restored.state), restored.position
        raise RunError(f"{self.folder}: no checkpoint of the run is whole: restore one, or begin in another folder")

    def wait(self) -> None:
        """Until all that was saved is on the disk. Raises RunError where it could not be written."""
        with self._reporting():
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._silence:
            if error is None:
                self.wait()
            self._manager.close()

    @contextlib.contextmanager
    def _reporting(self) -> Any:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            raise RunError(
                f"{self.folder}: a checkpoint could not be written ({_shorten(error)}): make room, and run this again"
            ) from None


def _changing(state: TrainState) -> dict[str, Any]:
    return {name: value for name, value in state._asdict().items() if name != "frozen"}


def _shorten(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
