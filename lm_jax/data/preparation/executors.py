"""Where the tasks of a phase run: processes of this machine, SLURM or Ray.

datatrove's executors mark each task that is complete, so what runs again leaves those out. Its
local executor waits forever for a worker that was killed; `run_locally` starts another one.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from copy import deepcopy
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_jax.errors import UserError
from lm_jax.plurals import counted

if TYPE_CHECKING:
    from lm_jax.data.preparation.config import ClusterConfig
    from lm_jax.data.preparation.plan import Phase

# (phase, tasks of all phases that are done, tasks of all phases) -> None
OnProgress = Callable[[str, int, int], None]
# (phases, directory of logs, workers, cluster, on_progress) -> whether all tasks are done
Execute = Callable[["Sequence[Phase]", Path, int, "ClusterConfig", OnProgress], bool]

_ATTEMPTS = 3


def run_locally(
    phases: "Sequence[Phase]",
    logs: Path,
    workers: int,
    cluster: "ClusterConfig",
    on_progress: OnProgress,
) -> bool:
    """Runs phases in processes of this machine, or in this process for one worker.

    Raises:
      UserError: a worker was killed again and again.
      Exception: whatever a task raises.
    """
    pool = None
    total, before = sum(phase.tasks for phase in phases), 0
    try:
        for phase in phases:
            executor = _local(phase, logs)
            waiting, killed = executor.get_incomplete_ranks(), 0
            while waiting:
                done = before + phase.tasks - len(waiting)
                on_progress(phase.name, done, total)
                if workers == 1 or phase.tasks == 1:
                    for rank in waiting:
                        _run(executor, rank)
                        done += 1
                        on_progress(phase.name, done, total)
                    break
                pool = pool or _pool(workers)
                try:
                    futures = [pool.submit(_run, executor, rank) for rank in waiting]
                    for future in as_completed(futures):
                        future.result()
                        done += 1
                        on_progress(phase.name, done, total)
                except BrokenProcessPool:
                    pool = None
                    killed += 1
                    if killed == _ATTEMPTS:
                        raise UserError(
                            f"a worker was killed {counted(killed, 'time')} in phase {phase.name}, "
                            "most likely for want of memory; give fewer --workers or more "
                            "--config.tasks"
                        ) from None
                waiting = executor.get_incomplete_ranks()
            before += phase.tasks
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
    return True


def _local(phase: "Phase", logs: Path) -> Any:
    from datatrove.executor.local import LocalPipelineExecutor

    return LocalPipelineExecutor(
        phase.blocks, phase.tasks, workers=1, logging_dir=str(logs / phase.name)
    )


def _pool(workers: int) -> ProcessPoolExecutor:
    # A fork of a process with threads, as JAX has, may hang.
    context = get_context("forkserver")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)


def _begin_worker() -> None:
    """Lets a worker end when the program is killed: it would wait for work forever."""
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there are as many workers as are wanted


def _run(executor: Any, rank: int) -> None:
    """Runs one task; its errors are raised, not logged.

    datatrove's own function opens three logs for each task, which takes longer than a small task.
    """
    silence()
    data = None
    for block in deepcopy(executor.pipeline):  # blocks keep counts
        data = block(data, rank, executor.world_size)
    if data is not None:
        deque(data, maxlen=0)
    executor.mark_rank_as_completed(rank)


def silence() -> None:
    """Keeps datatrove's log off the terminal: errors are raised."""
    from loguru import logger

    logger.disable("datatrove")


def submit_to_slurm(
    phases: "Sequence[Phase]",
    logs: Path,
    workers: int,
    cluster: "ClusterConfig",
    on_progress: OnProgress,
) -> bool:
    """Submits a job array for each phase that is not done; each waits for the one before.

    Raises:
      UserError: no partition is given, or there is no sbatch.
    """
    from datatrove.executor.slurm import SlurmPipelineExecutor

    if not any(_local(phase, logs).get_incomplete_ranks() for phase in phases):
        return True
    if not cluster.partition:
        raise UserError("cluster.partition is empty; give --config.cluster.partition=NAME")
    previous = None
    for phase in phases:
        previous = SlurmPipelineExecutor(
            phase.blocks,
            phase.tasks,
            time=cluster.time,
            partition=cluster.partition,
            mem_per_cpu_gb=cluster.memory_gb,
            workers=workers,
            job_name=phase.name,
            depends=previous,
            logging_dir=str(logs / phase.name),
        )
    assert previous is not None
    try:
        previous.run()
    except FileNotFoundError as error:
        raise UserError(
            f"cluster.executor=slurm needs {error.filename}; run this where jobs are submitted"
        ) from None
    return False


def run_on_ray(
    phases: "Sequence[Phase]",
    logs: Path,
    workers: int,
    cluster: "ClusterConfig",
    on_progress: OnProgress,
) -> bool:
    """Runs phases on the Ray cluster of `ray.init`.

    Raises:
      UserError: Ray is not installed.
    """
    try:
        import ray
        from datatrove.executor.ray import RayPipelineExecutor
    except ImportError:
        raise UserError("cluster.executor=ray needs Ray: pip install 'ray>=2.9'") from None
    if not ray.is_initialized():
        ray.init()
    total, done = sum(phase.tasks for phase in phases), 0
    for phase in phases:
        on_progress(phase.name, done, total)
        RayPipelineExecutor(
            phase.blocks,
            phase.tasks,
            workers=workers,
            mem_per_cpu_gb=cluster.memory_gb,
            logging_dir=str(logs / phase.name),
        ).run()
        done += phase.tasks
    return True


EXECUTORS: dict[str, Execute] = {
    "local": run_locally,
    "slurm": submit_to_slurm,
    "ray": run_on_ray,
}
