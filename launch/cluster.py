"""Flags by which a program joins the other processes of its job."""

import os

from absl import flags

from lm_jax.parallel import launchers

COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0; detected under SLURM, Open MPI and on TPUs."
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Number of processes of the job.", lower_bound=1
)
PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Number of this process, from 0.", lower_bound=0
)
COORDINATOR_TIMEOUT = flags.DEFINE_integer(
    "coordinator_timeout", 120, "Seconds to wait for the other processes.", lower_bound=1
)


def join() -> None:
    """Joins the other processes of the job, if there are any.

    Raises:
      UserError: flags and environment do not define the job, or the other processes do not come.
    """
    from lm_jax.parallel import processes

    process = launchers.find(os.environ, COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    if process is not None or launchers.on_tpu(os.environ):
        processes.join(process, COORDINATOR_TIMEOUT.value)
