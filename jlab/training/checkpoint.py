"""Checkpoints that survive kills, full disks and damaged files.

Orbax writes them asynchronously and commits them by a rename. After the commit a manifest with a
checksum of every file, and the metrics given to `save`, is written beside them: a checkpoint
without one, or whose files do not match, counts as damaged, and the one before it is used.
"""

import contextlib
import math
import os
import re
import shutil
import warnings
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from jlab.training.manifest import (
    damage,
    manifest_path,
    newest_whole,
    saved_metrics,
    whole,
    write_manifest,
)


class Checkpointer:
    """Asynchronous checkpoints of any pytree under one folder, the newest and the best kept.

    A save that fails (disk full, folder read-only) is reported once as a warning and kept in
    `failures`; training goes on, and the last good checkpoint stays.

    Args:
      folder: created if missing.
      keep: how many of the newest to keep, at least 2 so that a damaged one has a fallback.
      best: name of a metric given to `save`; the checkpoint in which it is lowest is kept too.
    """

    def __init__(self, folder: Path, keep: int = 2, best: str | None = None):
        import orbax.checkpoint as ocp
        from orbax.checkpoint import checkpoint_managers as policies

        if keep < 2:
            raise ValueError(f"keep must be >= 2, so that a fallback exists; got {keep}")
        self.folder = Path(folder).absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.failures: list[str] = []
        self._metrics = saved_metrics(self.folder)
        preserve = [policies.LatestN(keep), _KeepBest(best, self._metrics)]
        self._ocp = ocp
        self._manager = ocp.CheckpointManager(
            self.folder,
            item_handlers=ocp.StandardCheckpointHandler(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(preserve),
                cleanup_tmp_directories=True,
                # A folder that cannot be made fails in `save`, not minutes later in the threads
                # that wait for it.
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            ),
        )
        self._unsealed: int | None = None  # step whose manifest is still to be written
        self._seals = ThreadPoolExecutor(1)
        self._sealing: tuple[int, Future] | None = None

    def steps(self) -> list[int]:
        """Steps that have a committed checkpoint, damaged or not, in ascending order."""
        self._manager.reload()
        return sorted(self._manager.all_steps())

    def save(self, step: int, tree: PyTree, metrics: dict[str, float] | None = None) -> None:
        """Start writing `tree` as the checkpoint of `step`; returns once the arrays are copied.

        A step that is saved already stays as it is.
        """
        self._finish()
        if step in self._manager.all_steps():
            return
        self._metrics[step] = metrics or {}
        try:
            self._manager.save(step, args=self._ocp.args.StandardSave(_arrays(tree)), force=True)
            self._unsealed = step
        except Exception as error:  # any storage error: training is worth more than one checkpoint
            self._failed(step, error)

    def poll(self) -> None:
        """Write the manifest of a checkpoint that has been committed meanwhile; never waits."""
        if self._unsealed is not None and not self._manager.is_saving_in_progress():
            self._seal()

    def close(self) -> None:
        """Wait for what is being written, seal it and stop the writer's threads."""
        self._finish()
        try:
            self._manager.close()
        except Exception as error:  # orbax raises a failed save, which is told already, once more
            if not self.failures:
                self.failures.append(f"checkpoints could not be closed: {_reason(error)}")
        self._seals.shutdown()

    def restore(self, target: PyTree) -> tuple[int, PyTree] | None:
        """Newest undamaged checkpoint, placed as `target` is; None where there is none.

        Damaged checkpoints are named in a warning and moved to the folder `damaged`, so that
        training can write those steps again.

        Args:
          target: a tree of the same structure, shapes and dtypes with the shardings to restore
            onto (arrays or `jax.ShapeDtypeStruct`); another mesh than the saved one is fine.

        Raises:
          ValueError: a leaf is not in both, or has another shape or type there.
        """
        target = _arrays(target)
        for step in reversed(self.steps()):
            harm = damage(self.folder, step)
            if harm is None:
                self._check_fits(step, target)
                tree = self._manager.restore(step, args=self._ocp.args.StandardRestore(target))
                return step, tree
            warnings.warn(
                f"checkpoint {self.folder / str(step)} is damaged ({harm}); using the one before",
                stacklevel=2,
            )
            self._move_aside(step)
        return None

    def _move_aside(self, step: int) -> None:
        self._metrics.pop(step, None)
        if jax.process_index() == 0:
            aside = self.folder / "damaged" / str(step)
            shutil.rmtree(aside, ignore_errors=True)
            aside.parent.mkdir(exist_ok=True)
            (self.folder / str(step)).rename(aside)
            manifest_path(self.folder, step).unlink(missing_ok=True)
        _barrier(f"jlab_move_aside_{step}")
        self._manager.reload()

    def _check_fits(self, step: int, target: PyTree) -> None:
        saved, wanted = _kinds(self._manager.item_metadata(step)), _kinds(target)
        for name in sorted(saved.keys() | wanted.keys()):
            there, here = saved.get(name, "missing"), wanted.get(name, "missing")
            if there != here:
                raise ValueError(
                    f"checkpoint {self.folder / str(step)} does not fit this model:"
                    f" {name} is {there} there and {here} here"
                )

    def _finish(self) -> None:
        """Wait until the last save is committed and sealed, or known to have failed."""
        if self._unsealed is not None:
            self._seal()
        if self._sealing is not None:
            (step, sealing), self._sealing = self._sealing, None
            error = sealing.exception()
            if error is not None:
                self._failed(step, error)

    def _seal(self) -> None:
        step, self._unsealed = self._unsealed, None
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # in the background, so it is raised here
            self._failed(step, error)
            return
        if jax.process_index() == 0:
            metrics = self._metrics[step]
            sealing = self._seals.submit(write_manifest, self.folder, step, metrics)
            self._sealing = step, sealing

    def _failed(self, step: int, error: BaseException) -> None:
        self._metrics.pop(step, None)
        if jax.process_index() == 0:  # its files are of no use, and could fill the disk
            for rest in (self.folder / str(step), *self.folder.glob(f"{step}.orbax-*-tmp*")):
                shutil.rmtree(rest, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._manager.reload()
        message = f"checkpoint of step {step} could not be written: {_reason(error)}"
        if not self.failures:
            warnings.warn(f"{message}; training goes on", stacklevel=3)
        self.failures.append(message)


def _reason(error: BaseException) -> str:
    """One line; tensorstore buries the system's error code in its whole configuration."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code:
        return os.strerror(int(code[1]))
    return (str(error).splitlines() or [type(error).__name__])[0]


class _KeepBest:
    """Orbax policy: keep the checkpoint whose metric `name` is lowest among those that have it."""

    def __init__(self, name: str | None, metrics: dict[int, dict[str, float]]):
        self._name, self._metrics = name, metrics

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """For each checkpoint, oldest first, whether it stays."""
        scores = [self._metrics.get(c.step, {}).get(self._name, math.inf) for c in checkpoints]
        ranked = [(score, -i) for i, score in enumerate(scores) if math.isfinite(score)]
        best = -min(ranked)[1] if ranked else None  # the newest of equals
        return [i == best for i in range(len(scores))]


def restore_part(folder: Path, target: dict, step: int | None = None) -> dict:
    """Some subtrees of a checkpoint; reads only, and only those.

    Args:
      folder: the checkpoints of a run.
      target: nested dicts with the names of the saved tree, down to the subtrees' shapes, dtypes
        and shardings (arrays or `jax.ShapeDtypeStruct`).
      step: which checkpoint; None: the newest that is whole.

    Raises:
      FileNotFoundError: there is no such checkpoint, or none that is whole.
    """
    import orbax.checkpoint as ocp

    folder = Path(folder).absolute()
    step = newest_whole(folder)[0] if step is None else whole(folder, step)
    arguments = ocp.checkpoint_utils.construct_restore_args(target)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        return reader.restore(
            folder / str(step) / "default",
            args=ocp.args.PyTreeRestore(target, restore_args=arguments, partial_restore=True),
        )


def _arrays(tree: PyTree) -> PyTree:
    """The tree with arrays for its numbers, which is what numpy makes of 0-d arrays in a sum."""
    return jax.tree.map(lambda x: np.asarray(x) if np.isscalar(x) else x, tree)


def _kinds(tree: PyTree) -> dict[str, str]:
    """Type and shape of every leaf, such as `float32[2, 3]`, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(_plain(tree))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    }


def _plain(tree: Any) -> Any:
    """The tree as nested dicts, because orbax's metadata names tuple fields as dict keys."""
    if hasattr(tree, "_asdict"):
        tree = tree._asdict()
    if isinstance(tree, dict):
        return {str(key): _plain(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return {str(i): _plain(value) for i, value in enumerate(tree)}
    return tree


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
