import pytest

from lm_jax.errors import UserError
from lm_jax.parallel.launchers import JobProcess, find, first_host

# What srun of SLURM 22.05 sets for task 5 of 8, four on each of two hosts.
SLURM = {
    "SLURM_JOB_ID": "4242",
    "SLURM_STEP_ID": "1",
    "SLURM_STEP_NODELIST": "gpu[007-008]",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_NODEID": "1",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_GPUS_ON_NODE": "8",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1,10.108.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
JOB_SET = {
    "JAX_COORDINATOR_ADDRESS": "train-hosts-0-0.train:8476",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "1",
}


def test_a_process_without_a_launcher_is_alone():
    assert find({}) is None


def test_a_batch_script_of_slurm_is_no_task_of_a_step():
    alone = SLURM | {"SLURM_PROCID": "0"}
    del alone["SLURM_STEP_NODELIST"], alone["SLURM_STEP_NUM_TASKS"]
    assert find(alone) is None


def test_slurm_says_who_is_who():
    place = find(SLURM)
    assert (place.num_processes, place.process_id) == (8, 5)
    host, port = place.coordinator.split(":")
    assert host == "gpu007" and 61440 <= int(port) < 65536
    assert find(SLURM | {"SLURM_PROCID": "0", "SLURM_NODEID": "0"}).coordinator == place.coordinator
    assert find(SLURM | {"SLURM_STEP_ID": "2"}).coordinator != place.coordinator


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node", "node"),
        ("node,other", "node"),
        ("node[001-016],other", "node001"),
        ("gpu-7-[3,5-8]", "gpu-7-3"),
        ("a12", "a12"),
    ],
)
def test_the_first_host_of_a_list(nodes, first):
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    ("changes", "devices"),
    [
        ({}, (1,)),  # nothing says what is visible: a GPU each
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, (2, 3)),  # eight shared by four
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, None),  # SLURM has shared them out
        ({"CUDA_VISIBLE_DEVICES": "3"}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "7,1", "CUDA_VISIBLE_DEVICES": "0,1"}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, None),  # a process a host has all
    ],
)
def test_processes_of_a_host_share_its_gpus(changes, devices):
    assert find(SLURM | changes).devices == devices


def test_open_mpi_says_who_is_who():
    place = find(OPEN_MPI)
    assert place.coordinator.startswith("10.96.0.1:")
    assert (place.num_processes, place.process_id, place.devices) == (4, 3, (1,))


def test_open_mpi_5_needs_to_be_told_the_coordinator():
    environment = {key: value for key, value in OPEN_MPI.items() if "uri" not in key}
    with pytest.raises(UserError, match="nothing says coordinator: give --coordinator=HOST:PORT"):
        find(environment)
    assert find(environment, "first:1234").coordinator == "first:1234"


def test_the_environment_of_a_job_set_is_enough():
    assert find(JOB_SET) == JobProcess("train-hosts-0-0.train:8476", 2, 1, None)


def test_flags_go_before_the_environment():
    assert find(JOB_SET, "other:1", 3, 2) == JobProcess("other:1", 3, 2, None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("host:1", None, None), "nothing says num_processes or process_id"),
        ((None, 2, 0), "nothing says coordinator"),
        (("host", 2, 0), "expected HOST:PORT"),
        (("host:1", 2, 2), "expected 0 <= process_id < num_processes"),
    ],
)
def test_what_is_half_said_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        find({}, *given)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (JOB_SET | {"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES is 'two'"),
        (JOB_SET | {"JAX_NUM_PROCESSES": "9" * 5000}, r"JAX_NUM_PROCESSES is '9{59}\.\.\."),
        (JOB_SET | {"JAX_PROCESS_ID": ""}, "JAX_PROCESS_ID is ''"),
        (SLURM | {"SLURM_JOB_ID": "42_7"}, "SLURM_JOB_ID is '42_7' in the environment; expected a"),
        ({k: v for k, v in SLURM.items() if k != "SLURM_JOB_ID"}, "nothing says coordinator"),
        (SLURM | {"SLURM_STEP_NODELIST": "[1-2]"}, r"SLURM_STEP_NODELIST is '\[1-2\]'"),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "x"}, "SLURM_STEP_TASKS_PER_NODE is 'x'"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "nothing says coordinator or process_id"),
    ],
)
def test_an_environment_without_numbers_is_refused(environment, message):
    with pytest.raises(UserError, match=message):
        find(environment)


@pytest.mark.parametrize("tasks", ["1(x9999999999)", "0"])
def test_tasks_per_node_are_counted_without_a_list_of_all_hosts(tasks):
    changes = {"SLURM_STEP_TASKS_PER_NODE": tasks, "CUDA_VISIBLE_DEVICES": "0,1"}
    assert find(SLURM | changes).devices is None


def test_an_address_of_open_mpi_without_a_job_has_a_port():
    environment = OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": "x;tcp://10.96.0.1:34911"}
    assert find(environment).coordinator == "10.96.0.1:61440"
