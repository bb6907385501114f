"""Reads from the launcher's environment which process of which job this one is.

Supports SLURM (`srun`), Open MPI (`mpirun`), and launchers that set JAX_COORDINATOR_ADDRESS,
JAX_NUM_PROCESSES and JAX_PROCESS_ID, as launch/clusters/train.jobset.yaml does. On TPU pods JAX
finds out itself.
"""

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lm_jax.errors import UserError
from lm_jax.json_values import shown
from lm_jax.plurals import counted
from lm_jax.whole_numbers import whole_number


class JobProcess(NamedTuple):
    """One process of a job."""

    coordinator: str  # HOST:PORT on which process 0 listens
    num_processes: int
    process_id: int
    devices: tuple[int, ...] | None = (
        None  # this process's GPUs on its host; None: all that it sees
    )


def find(
    environment: Mapping[str, str],
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> JobProcess | None:
    """Returns this process of a job; None if it is the only one.

    Arguments that are given override the environment.

    Raises:
      UserError: one of the three values is missing, they contradict each other, or a variable of
        the environment holds no number where one belongs.
    """
    found = _explicit(environment) or _slurm(environment) or _open_mpi(environment)
    given = {
        "coordinator": coordinator,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    known = found | {name: value for name, value in given.items() if value is not None}
    if not known or (known.get("num_processes") == 1 and not coordinator):
        return None
    missing = [name for name in given if known.get(name) is None]
    if missing:
        raise UserError(
            f"a job of several processes, but nothing says {' or '.join(missing)}: "
            "give --coordinator=HOST:PORT --num_processes=N --process_id=I"
        )
    process = JobProcess(**known)
    if not re.fullmatch(r".+:\d+", process.coordinator):
        raise UserError(f"--coordinator is {process.coordinator!r}; expected HOST:PORT")
    if not 0 <= process.process_id < process.num_processes:
        raise UserError(
            f"--process_id is {process.process_id} of "
            f"{counted(process.num_processes, 'process', 'processes')}; expected 0 <= process_id < "
            "num_processes"
        )
    return process


def on_tpu(environment: Mapping[str, str]) -> bool:
    """Returns whether this is a TPU machine, which may belong to a pod."""
    chips = any(Path("/dev").glob("accel[0-9]*")) or any(Path("/dev/vfio").glob("[0-9]*"))
    if (environment.get("JAX_PLATFORMS") or "tpu").partition(",")[0] != "tpu":
        return False
    return chips and importlib.util.find_spec("libtpu") is not None


def _explicit(environment: Mapping[str, str]) -> dict[str, Any]:
    if "JAX_NUM_PROCESSES" not in environment:
        return {}
    return {
        "coordinator": environment.get("JAX_COORDINATOR_ADDRESS"),
        "num_processes": _number(environment, "JAX_NUM_PROCESSES"),
        "process_id": _number(environment, "JAX_PROCESS_ID"),
    }


def _slurm(environment: Mapping[str, str]) -> dict[str, Any]:
    # A batch script has SLURM_PROCID too, but only the tasks of srun belong to a step.
    if not {"SLURM_PROCID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS"} <= environment.keys():
        return {}
    job, step = _number(environment, "SLURM_JOB_ID"), _number(environment, "SLURM_STEP_ID") or 0
    host = first_host(environment["SLURM_STEP_NODELIST"])
    return {
        "coordinator": None if job is None else f"{host}:{_port(job + step)}",
        "num_processes": _number(environment, "SLURM_STEP_NUM_TASKS"),
        "process_id": _number(environment, "SLURM_PROCID"),
        "devices": _share_of_gpus(
            environment,
            _number(environment, "SLURM_LOCALID") or 0,
            _tasks_on_host(environment),
            _number(environment, "SLURM_GPUS_ON_NODE"),
        ),
    }


def _open_mpi(environment: Mapping[str, str]) -> dict[str, Any]:
    if "OMPI_COMM_WORLD_SIZE" not in environment:
        return {}
    # `1531576320.0;tcp://10.96.0.1,10.148.0.1:34911`; Open MPI 5 does not give its host.
    uri = environment.get("OMPI_MCA_orte_hnp_uri", "")
    address = re.search(r"tcp6?://\[?([^,\]:]+|[^,\]]+)[,:\]]", uri)
    job = whole_number(uri.partition(".")[0]) or 0
    port = _port(job // 4096)  # its lower 12 bits are always 0
    local_size = _number(environment, "OMPI_COMM_WORLD_LOCAL_SIZE")
    return {
        "coordinator": f"{address[1]}:{port}" if address else None,
        "num_processes": _number(environment, "OMPI_COMM_WORLD_SIZE"),
        "process_id": _number(environment, "OMPI_COMM_WORLD_RANK"),
        "devices": _share_of_gpus(
            environment,
            _number(environment, "OMPI_COMM_WORLD_LOCAL_RANK") or 0,
            1 if local_size is None else local_size,
            None,
        ),
    }


def first_host(nodes: str) -> str:
    """Returns the first host of a SLURM list such as `gpu[007-010,12],login`.

    Raises:
      UserError: it is no such list.
    """
    matched = re.match(r"([^,\[]+)(?:\[(\w+))?", nodes)
    if matched is None:
        raise UserError(
            f"SLURM_STEP_NODELIST is {shown(nodes)}; expected hosts such as gpu[007-010], as srun "
            "sets it"
        )
    return matched[1] + (matched[2] or "")


def _port(number: int) -> int:
    return 61440 + number % 4096  # equal on all hosts, and rarely that of another job


def _tasks_on_host(environment: Mapping[str, str]) -> int:
    """Returns the number of tasks on this host from SLURM_STEP_TASKS_PER_NODE.

    `2(x3),1` means 2 tasks on each of three hosts and 1 on the last.
    """
    name = "SLURM_STEP_TASKS_PER_NODE"
    text, host = environment.get(name, "1"), _number(environment, "SLURM_NODEID") or 0
    tasks = 0
    for part in text.split(","):
        matched = re.fullmatch(r"(\d{1,10})(?:\(x(\d{1,10})\))?", part, re.ASCII)
        if matched is None:
            raise UserError(f"{name} is {shown(text)}; expected such as 2(x3),1, as srun sets it")
        tasks, host = int(matched[1]), host - int(matched[2] or 1)
        if host < 0:
            break
    return tasks


def _share_of_gpus(
    environment: Mapping[str, str], index: int, count: int, on_host: int | None
) -> tuple[int, ...] | None:
    """Returns the GPUs of process `index` of `count` on this host; None: all that it sees."""
    if count <= 1:
        return None
    visible = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if not visible:
        return (index,)
    bound = len(visible) < (on_host or 0)  # the launcher has already divided them
    if bound or len(visible) < count:
        return None
    share = len(visible) // count
    return tuple(range(index * share, (index + 1) * share))


def _number(environment: Mapping[str, str], name: str) -> int | None:
    """Returns the number that a variable of the environment holds; None: it is not set."""
    text = environment.get(name)
    number = None if text is None else whole_number(text)
    if text is not None and number is None:
        raise UserError(f"{name} is {shown(text)} in the environment; expected a number")
    return number
