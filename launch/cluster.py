"""How a front door becomes one of several processes, each on its host."""

import os

from absl import flags

from lm_jax.parallel import launchers, processes

COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT where process 0 listens; found under SLURM, Open MPI, on TPUs."
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Of the job.", lower_bound=1)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Of this one, from 0.", lower_bound=0)
COORDINATOR_TIMEOUT = flags.DEFINE_integer(
    "coordinator_timeout", 120, "Seconds to wait for the other processes.", lower_bound=1
)


def join() -> None:
    """Joins the processes of the job, if there are others.

    Raises:
      UserError: the flags and the environment do not say who they are, or they do not come.
    """
    place = launchers.find(os.environ, COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    if place is not None or launchers.on_tpu(os.environ):
        processes.join(place, COORDINATOR_TIMEOUT.value)
