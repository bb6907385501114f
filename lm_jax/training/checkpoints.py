"""Saves and restores training states; with `checkpoint_handler`, the only file that uses orbax."""

import contextlib
import errno
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from orbax.checkpoint.checkpoint_managers import preservation_policy

from lm_jax.atomic_files import refuse_links
from lm_jax.config.experiment import CheckpointConfig
from lm_jax.digests import file_states, find_change, find_damage
from lm_jax.errors import UserError, is_full
from lm_jax.json_values import fits
from lm_jax.nested import flatten
from lm_jax.parallel import processes
from lm_jax.training.checkpoint_handler import DigestedHandler, DigestedRestore, DigestedSave
from lm_jax.whole_numbers import whole_number


def finished_steps(directory: Path) -> list[int]:
    """Returns the steps of the completely saved checkpoints in a directory, in rising order."""
    numbers = (whole_number(path.name) for path in directory.glob("[0-9]*"))
    return sorted(number for number in numbers if number is not None)


class Checkpoints:
    """The checkpoints of one run: the newest and the best, written in the background.

    With a `keep_step` above 0 it also keeps the newest and the best as of that step.
    """

    def __init__(
        self,
        directory: Path,
        config: CheckpointConfig,
        *,
        keep_step: int = 0,
        read_only: bool = False,
    ):
        latest = preservation_policy.LatestN(config.keep_last)
        best = preservation_policy.BestN(
            get_metric_fn=_cross_entropy,
            reverse=True,  # the smallest is best
            n=config.keep_best,
            keep_checkpoints_without_metrics=False,
        )
        keep: list[Any] = [latest, best] if config.keep_best else [latest]
        if keep_step:
            last = preservation_policy.LatestN(1)
            kept = [last, best] if config.keep_best else [last]
            keep.append(_UntilStep(keep_step, preservation_policy.AnyPreservationPolicy(kept)))
        if not read_only:
            refuse_links(directory)
        # Orbax logs its phases as warnings, and logs a traceback before it raises an error.
        absl_logging.set_verbosity(absl_logging.FATAL)
        self._directory = directory
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(keep),
            best_fn=_cross_entropy,  # without one, orbax writes no metrics
            best_mode="min",
            read_only=read_only,
            create=not read_only,
        )
        self._read_only = read_only
        self._manager = _Manager(
            directory.absolute(), item_handlers=DigestedHandler(), options=options
        )

    def save(self, step: int, state: Any, cross_entropy: float | None = None) -> None:
        """Starts saving a state; its arrays may be donated once this returns.

        Raises:
          OSError: this checkpoint or the previous one could not be written.
        """
        if step in self._manager.all_steps():
            return
        metrics = None if cross_entropy is None else {"cross_entropy": cross_entropy}
        with self._as_os_error():
            # Without `force`, orbax saves nothing, and says nothing, while there is a later step.
            self._manager.save(step, args=DigestedSave(state), metrics=metrics, force=True)

    def steps(self) -> list[int]:
        """Returns the steps with a finished checkpoint, newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def restore(
        self,
        abstract_state: Any,
        which: str,
        log: Callable[[str], None],
        parts: Sequence[str] | None = None,
    ) -> tuple[int, Any]:
        """Returns the step and the state of a checkpoint.

        Unless this only reads, later checkpoints that cannot be read are set aside, as
        `damaged-000040`: they neither hide what is saved from now on nor count as kept.

        Args:
          abstract_state: shapes, dtypes and shardings to restore onto; None: the state as saved,
            in nested dicts of NumPy arrays.
          which: `last` is the newest readable one, `best` has the smallest validation
            cross-entropy; or a step.
          log: called with a message for each later checkpoint that cannot be read, and for metrics
            that cannot.
          parts: fields of the state to read alone, which are returned in a dict; None: all.

        Raises:
          UserError: there is no such checkpoint, or none can be read.
        """
        for step in sorted(self._manager.damaged_metrics):
            log(f"the metrics of the checkpoint of step {step} cannot be read: it is not the best")
        problems: dict[int, str] = {}
        for step in self._candidates(which):
            state, before = None, file_states(self._path(step))
            problem = self._damage(step)
            try:
                if not problem:
                    target = self._on_host(step) if abstract_state is None else abstract_state
                    state = self._restore(step, target, parts)
                    problem = find_change(self._path(step), before)
            except Exception as error:  # orbax and tensorstore raise many types for broken files
                problem = _problem(error)
                _ignore_late_reads()
            problem = _first(processes.gather(problem))  # all processes must read the same step
            if not problem:
                kept_as = self._set_aside(list(problems))
                for later, text in problems.items():
                    log(text + kept_as.get(later, ""))
                return step, state
            problems[step] = f"the checkpoint of step {step} cannot be read ({problem})"
        raise UserError(
            f"{next(iter(problems.values()))} in {self._directory}, nor any before it; "
            "restore its files or choose another --workdir"
        )

    def _set_aside(self, steps: Sequence[int]) -> dict[int, str]:
        """Renames checkpoints unless this only reads, and returns what to say; a collective."""
        if self._read_only or not steps:
            return {}
        names = {step: f"damaged-{step:06d}" for step in steps}

        def rename() -> None:
            for step, name in names.items() if processes.is_first() else ():
                aside = self._directory / name
                if aside.exists():
                    aside = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._directory))
                (self._directory / str(step)).rename(aside)

        processes.together(rename)
        self._manager.reload()
        return {step: f"; it is kept as {name}" for step, name in names.items()}

    def _damage(self, step: int) -> str:
        """Returns what is damaged of a checkpoint, "" if nothing is; a collective."""
        own = find_damage(
            self._path(step), share=jax.process_index(), num_shares=jax.process_count()
        )
        return _first(processes.gather(own))

    def _path(self, step: int) -> Path:
        """Returns the folder of the arrays of a checkpoint."""
        return self._directory.absolute() / str(step) / "default"

    def _restore(self, step: int, target: Any, parts: Sequence[str] | None) -> Any:
        if parts is None:
            with ocp.Checkpointer(DigestedHandler()) as reader:  # not the metrics, as `_manager`
                return reader.restore(self._path(step), args=DigestedRestore(target))
        fields = target if isinstance(target, dict) else target._asdict()
        return self._read(step, {name: fields[name] for name in parts})

    def _read(self, step: int, target: Any) -> Any:
        """Returns those arrays of a checkpoint that a tree of their shapes names."""
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            return reader.restore(
                self._path(step),
                args=ocp.args.PyTreeRestore(
                    item=target,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(target),
                    partial_restore=True,
                ),
            )

    def saved_params(self, which: str) -> tuple[int, "dict[str, SavedArray]"]:
        """Returns the step of a checkpoint and its parameters by path, none of which is read yet.

        Args:
          which: as for `restore`; `last` is the newest.

        Raises:
          UserError: there is no such checkpoint, or it cannot be read.
        """
        (step, *_) = self._candidates(which)
        before = file_states(self._path(step))
        if damage := self._damage(step):
            raise self._unreadable(step, damage)
        try:
            saved = flatten(self._shapes(step)["params"])
        except Exception as error:  # damaged, of one of many types
            raise self._unreadable(step, _problem(error)) from None

        def reader(path: str, shape: tuple[int, ...], dtype: np.dtype) -> SavedArray:
            def read() -> np.ndarray:
                target: Any = np.empty(shape, dtype)
                for name in reversed(["params", *path.split(".")]):
                    target = {name: target}
                try:
                    (array,) = jax.tree.leaves(self._read(step, target))
                except Exception as error:  # as above
                    raise self._unreadable(step, _problem(error)) from None
                if change := find_change(self._path(step), before):
                    raise self._unreadable(step, change)
                return array

            return SavedArray(shape, dtype, read)

        return step, {
            path.replace(".", "/"): reader(path, tuple(leaf.shape), np.dtype(leaf.dtype))
            for path, leaf in saved.items()
        }

    def _unreadable(self, step: int, problem: str) -> UserError:
        return UserError(
            f"the checkpoint of step {step} in {self._directory} cannot be read "
            f"({problem}); restore its files, or choose another checkpoint"
        )

    def refuse_other_shapes(self, which: str, params: Any) -> None:
        """Raises UserError if the parameters of a checkpoint have other shapes than expected.

        Args:
          which: as for `restore`.
        """
        (step, *_) = self._candidates(which)
        try:
            saved = flatten(self._shapes(step)["params"])
        except Exception:  # damaged, of one of many types; `restore` goes on to an earlier one
            return
        expected = flatten(params)
        for path in sorted(saved.keys() | expected.keys()):
            there, here = (
                tuple(shapes[path].shape) if path in shapes else "absent"
                for shapes in (saved, expected)
            )
            if there != here and not self._damage(step):
                raise UserError(
                    f"parameter {path} of the checkpoint in {self._directory} is {there}, and of "
                    f"the model {here}: config.json, data.json or the code of the model was "
                    "changed; restore it"
                )

    def _on_host(self, step: int) -> dict[str, Any]:
        """Returns empty host arrays of the saved shapes, whatever devices they were saved from."""
        return jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), self._shapes(step))

    def _shapes(self, step: int) -> dict[str, Any]:
        """Returns the shapes and dtypes of the saved state."""
        handler = DigestedHandler()
        with contextlib.closing(handler):
            return handler.metadata(self._path(step)).tree

    def _candidates(self, which: str) -> list[int]:
        steps = self.steps()
        if not steps:
            raise UserError(f"{self._directory} holds no checkpoint; train the model first")
        if which == "last":
            return steps
        if which == "best":
            metrics = {step: self._manager.metrics(step) for step in steps}
            scores = {step: found["cross_entropy"] for step, found in metrics.items() if found}
            if not scores:
                raise UserError(f"no checkpoint in {self._directory} was evaluated; use `last`")
            return [min(scores, key=scores.__getitem__)]
        if whole_number(which) in steps:
            return [int(which)]
        raise UserError(
            f"no checkpoint {which!r} in {self._directory}; expected last, best or one of {steps}"
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        # After losing a process of the job, closing would wait for its part forever.
        if error is None or not processes.is_lost(error):
            self.close()

    def close(self) -> None:
        """Waits until everything is on disk. Raises OSError if it cannot be written."""
        with self._as_os_error():
            self._manager.wait_until_finished()
            self._manager.close()

    @contextlib.contextmanager
    def _as_os_error(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a full disk raises one of many types, in a thread
            if processes.is_lost(error):
                raise
            advice = "free some space and " if is_full(error) else ""
            raise OSError(
                f"a checkpoint cannot be written to {self._directory} ({_problem(error)}); "
                f"{advice}start again: finished checkpoints are complete"
            ) from error


class _Manager(ocp.CheckpointManager):
    """Reads checkpoints whose metrics are damaged as ones that were not evaluated."""

    def __init__(self, *args: Any, **kwargs: Any):
        self.damaged_metrics: set[int] = set()
        super().__init__(*args, **kwargs)  # reads all metrics

    def metrics(self, step: int) -> Any:
        """Returns the metrics of a checkpoint; None if there are none to read."""
        try:
            found = super().metrics(step)
        except (ValueError, OSError, RecursionError):  # it is no JSON, or nested without end
            self.damaged_metrics.add(step)
            return None
        if found is not None and not fits(found, _Metrics):
            self.damaged_metrics.add(step)
            return None
        return found


class _Metrics(TypedDict):
    """What is known of a checkpoint that was evaluated."""

    cross_entropy: float


class SavedArray(NamedTuple):
    """An array of a checkpoint, and a function that reads it into the memory of this host."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


class _UntilStep(NamedTuple):
    """An orbax preservation policy: applies another policy to the checkpoints up to a step."""

    step: int
    policy: Any

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        until = [checkpoint for checkpoint in checkpoints if checkpoint.step <= self.step]
        kept = iter(self.policy.should_preserve(until, context=context) if until else [])
        return [checkpoint.step <= self.step and next(kept) for checkpoint in checkpoints]


def _ignore_late_reads() -> None:
    """Shows no traceback for arrays whose reading ends after the reading of another has failed.

    Orbax has closed its event loop by then, which tensorstore's threads report for each of them.
    """
    show = sys.unraisablehook
    if getattr(show, "ignores_late_reads", False):
        return

    def show_others(found: "sys.UnraisableHookArgs") -> None:
        is_late = isinstance(found.exc_value, RuntimeError)
        if not (is_late and str(found.exc_value) == "Event loop is closed"):
            show(found)

    show_others.ignores_late_reads = True  # type: ignore[attr-defined]
    sys.unraisablehook = show_others


def _first(problems: Sequence[str]) -> str:
    return next(filter(None, problems), "")


def _cross_entropy(metrics: Any) -> float:
    return metrics["cross_entropy"]


def _problem(error: Exception) -> str:
    """Returns an error of orbax or tensorstore in a short phrase."""
    text = " ".join(str(error).split())
    known = [message for message in map(os.strerror, errno.errorcode) if message in text]
    if known:  # inside pages of status and source locations
        return known[0].lower()
    if isinstance(error, FileNotFoundError | json.JSONDecodeError):
        return "its description is missing or damaged"
    if array := re.search(r'Error reading "([^"]+)"', text):
        return f"array {array[1].partition('/')[0]} is damaged"
    if "ocdbt" in text.lower():
        return "its index is damaged"
    return f"{type(error).__name__}: {text.partition(' [')[0][:80]}"
