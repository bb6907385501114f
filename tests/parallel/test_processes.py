"""Several processes that are one run: real ones, on CPU, with gloo between them."""

import json
import shutil
import signal
import socket
import time

import numpy as np
import pytest

from lm_jax.choices import choose
from lm_jax.digests import MANIFEST, find_damage
from lm_jax.errors import UserError
from lm_jax.nested import flatten
from lm_jax.parallel import processes
from lm_jax.telemetry.json_files import read_metrics
from tests.conftest import slow_but
from tests.launch.programs import ROOT, TINY, parameters, start, wait_for_step

CONFIG = [f"--config={ROOT / 'configs/quickstart.py'}", *TINY[1:]]
CONFIG += ["--config.evaluation.baselines=false", "--config.samples.num_samples=0"]
CONFIG += ["--config.checkpoint.every_steps=20"]


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def place(count, index, port):
    coordinator = f"--coordinator=localhost:{port}"
    return [coordinator, f"--num_processes={count}", f"--process_id={index}"]


def start_job(count, workdir, *more):
    port = free_port()
    arguments = [*CONFIG, f"--workdir={workdir}", *more]
    return [start("train", *arguments, *place(count, index, port)) for index in range(count)]


def end(processes, timeout=240):
    """(status, stdout without what gloo says of its connections, stderr) of each."""
    ends = []
    for process in processes:
        out, err = process.communicate(timeout=timeout)
        lines = [line for line in out.splitlines() if not line.startswith("[Gloo]")]
        ends.append((process.returncode, "\n".join(lines), err))
    return ends


def finish(count, workdir, *more):
    """What the first process prints last."""
    ends = end(start_job(count, workdir, *more))
    assert [status for status, _, _ in ends] == [0] * count, ends
    assert all(not out and not err for _, out, err in ends[1:]), ends
    return json.loads(ends[0][1].splitlines()[-1])


def losses(workdir):
    return {row["step"]: row["loss"] for row in read_metrics(workdir) if row["kind"] == "train"}


def errors(text):
    return [line for line in text.splitlines() if line.startswith("error: ")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone") / "run"
    process = start("train", *CONFIG, f"--workdir={workdir}")
    ((status, out, err),) = end([process])
    assert status == 0, err
    return workdir, json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("pair") / "run"
    return workdir, finish(2, workdir, "--config.samples.num_samples=1")


def assert_same_run(ours, theirs):
    """That a run has the losses and the figures of another."""
    (workdir, results), (other, expected) = ours, theirs
    assert losses(workdir).keys() == losses(other).keys()
    for step, loss in losses(other).items():
        assert losses(workdir)[step] == pytest.approx(loss, abs=1e-5), step
    assert results["step"] == expected["step"]
    found = flatten(results["validation"])
    for name, value in flatten(expected["validation"]).items():
        assert found[name] == pytest.approx(value, rel=1e-4), name


@pytest.mark.slow
def test_two_hosts_train_on_a_mixture_as_one_does(tmp_path):
    rng = np.random.default_rng(0)
    for name, letters in (("prose", "abcdef "), ("code", "(){}=;x ")):
        (tmp_path / name).mkdir()
        for number in range(60):
            text = "".join(rng.choice(list(letters), size=rng.integers(50, 400)))
            (tmp_path / name / f"{number}.txt").write_text(text)
    mixed = [
        "--config.data.source=files",
        f"--config.data.sources=prose={tmp_path}/prose; code={tmp_path}/code",
        "--config.data.weights=prose=0.7, code=0.3; 20: prose=0.2, code=0.8",
        "--config.data.packing=best_fit",
        "--config.data.tokenizer.kind=byte",
    ]
    hosts, one = tmp_path / "hosts", tmp_path / "one"
    ours, theirs = finish(2, hosts, *mixed), finish(1, one, *mixed)
    assert set(theirs["validation"]["sources"]) == {"prose", "code"}
    assert_same_run((hosts, ours), (one, theirs))


@pytest.mark.slow
def test_two_processes_train_as_one_does(pair, alone):
    assert_same_run(pair, alone)
    folder = pair[0] / "checkpoints" / "40" / "default"  # each process digests what it wrote
    assert not list(folder.glob("digests.process_*"))
    files = json.loads((folder / MANIFEST).read_text())["files"]
    for index in range(2):
        assert any(name.startswith(f"ocdbt.process_{index}/d/") for name in files)
    assert find_damage(folder) == ""


@pytest.mark.slow
def test_two_processes_count_as_one_does(tmp_path):
    counted = [f"--config={ROOT / 'configs/ngram.py'}:reference", "--config.model.order=2"]
    counted += ["--config.evaluation.baselines=false", "--config.samples.num_samples=1"]
    port = free_port()
    pair = [
        start("train", *counted, f"--workdir={tmp_path / 'pair'}", *place(2, index, port))
        for index in range(2)
    ]
    (status, out, err), _ = end(pair)
    assert status == 0, err
    ((status, alone, err),) = end([start("train", *counted, f"--workdir={tmp_path / 'alone'}")])
    assert status == 0, err
    found, expected = (json.loads(text.splitlines()[-1])["validation"] for text in (out, alone))
    assert found["cross_entropy"] == pytest.approx(expected["cross_entropy"], abs=1e-6)


@pytest.mark.slow
def test_two_processes_evaluate_what_one_has_trained(alone):
    workdir, results = alone
    arguments, port = [f"--workdir={workdir}", "--batch_size=6"], free_port()
    processes = [start("evaluate", *arguments, *place(2, i, port)) for i in range(2)]
    (status, out, err), (other, silence, _) = end(processes)
    assert (status, other) == (0, 0) and not silence, err
    for name, value in json.loads(out.splitlines()[-1])["validation"].items():
        assert value == pytest.approx(results["validation"][name], rel=1e-5), name


@pytest.mark.slow
def test_four_processes_are_stopped_by_one_and_resumed_by_one_and_by_two(alone, tmp_path):
    workdir = tmp_path / "four"
    processes = start_job(4, workdir, "--config.mesh=fsdp:4")
    wait_for_step(workdir, processes[0], 5)
    processes[2].send_signal(signal.SIGTERM)
    ends = end(processes)
    assert [status for status, _, _ in ends] == [75] * 4, ends
    stopped = json.loads(ends[0][1].splitlines()[-1])
    assert stopped["stopped"] and 5 <= stopped["step"] < 40
    steps = [int(path.name) for path in (workdir / "checkpoints").glob("[0-9]*")]
    assert max(steps) == stopped["step"]
    shutil.copytree(workdir, tmp_path / "one")
    for name, count in (("one", 1), ("four", 2)):
        results = finish(count, tmp_path / name)
        assert_same_run((tmp_path / name, results), alone)


def kill_one_of_two(killed, workdir):
    """Kills a process of a job in the middle, and checks how the other ends."""
    processes = start_job(2, workdir, "--config.samples.num_samples=1")
    wait_for_step(workdir, processes[0], 25)  # no checkpoint is being written
    processes[killed].kill()
    since = time.monotonic()
    status, _, err = end([processes[1 - killed]], timeout=120)[0]
    assert time.monotonic() - since < 60
    assert status not in (0, 75)
    assert "another process of this job stopped" in err or "another task died" in err, err
    end(processes)


@pytest.mark.slow
def test_a_killed_process_stops_the_others_and_the_job_goes_on_as_one_process_does(alone, tmp_path):
    workdir = tmp_path / "run"
    kill_one_of_two(1, workdir)
    results = finish(2, workdir, "--config.samples.num_samples=1")
    assert_same_run((workdir, results), alone)
    for name in ("samples.txt", "inspection.json", "report.html"):
        assert (workdir / name).stat().st_size > 0, name


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_job_of_which_a_process_was_killed_goes_on_to_the_same_bits(killed, pair, tmp_path):
    workdir = tmp_path / "run"
    kill_one_of_two(killed, workdir)
    finish(2, workdir, "--config.samples.num_samples=1")
    assert losses(workdir) == losses(pair[0])
    for ours, theirs in zip(parameters(workdir), parameters(pair[0]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_processes_that_disagree_on_the_configuration_are_refused(tmp_path):
    workdir, port = tmp_path / "run", free_port()
    arguments = [*CONFIG, f"--workdir={workdir}"]
    other = ["--config.schedule.peak_learning_rate=0.5"]
    processes = [
        start("train", *arguments, *(other if index else []), *place(2, index, port))
        for index in range(2)
    ]
    for index, (status, out, err) in enumerate(end(processes)):
        assert status == 1 and not out
        (error,) = errors(err)
        assert f"process {index} of 2" in error
        assert "config.schedule.peak_learning_rate is 0.003 in process 0 and 0.5 in" in error
    assert not workdir.exists()


def test_processes_that_read_different_data_are_refused(tmp_path):
    workdir, port, processes = tmp_path / "run", free_port(), []
    for index, text in enumerate(("some words to learn ", "other words to learn ")):
        host = tmp_path / f"host{index}"
        host.mkdir()
        (host / "text.txt").write_text(text * 200)
        source = ["--config.data.source=files", "--config.data.path=text.txt"]
        source += ["--config.data.split=tail", "--config.data.drop_repeated_paragraphs=false"]
        arguments = [*CONFIG, *source, f"--workdir={workdir}", *place(2, index, port)]
        processes.append(start("train", *arguments, cwd=host))
    for status, _, err in end(processes):
        assert status == 1 and "disagree: the data's fingerprint is" in err, err
    assert not workdir.exists()


def test_data_that_one_host_lacks_is_refused_by_all(tmp_path):
    workdir, port, processes = tmp_path / "run", free_port(), []
    for index in range(2):
        host = tmp_path / f"host{index}"
        host.mkdir()
        source = ["--config.data.source=files", "--config.data.path=text.txt"]
        source += ["--config.data.split=tail", "--config.data.drop_repeated_paragraphs=false"]
        arguments = [*CONFIG, *source, f"--workdir={workdir}", *place(2, index, port)]
        processes.append((host, arguments))
    (processes[0][0] / "text.txt").write_text("some words to learn " * 200)
    for status, _, err in end(
        [start("train", *arguments, cwd=host) for host, arguments in processes]
    ):
        assert status == 1 and "process 1: no file matches" in err, err
    assert not workdir.exists()


@pytest.mark.parametrize("index", slow_but([0, 1], 1))
def test_a_job_whose_other_process_never_starts_says_where_it_waited(index, tmp_path):
    workdir, port = tmp_path / "run", free_port()
    arguments = [*CONFIG, f"--workdir={workdir}", *place(2, index, port)]
    ((status, _, err),) = end([start("train", *arguments, "--coordinator_timeout=3")])
    assert status == 1
    (error,) = errors(err)
    assert f"localhost:{port}" in error and "3 s" in error
    assert not workdir.exists()


def test_a_fault_in_one_of_several_processes_is_no_mistake_of_the_user(monkeypatch):
    monkeypatch.setattr(processes, "several", lambda: True)
    monkeypatch.setattr(processes, "gather", lambda text: ["", text])
    with pytest.raises(ValueError, match="invalid literal") as fault:
        processes.together(lambda: int("x"))
    assert not isinstance(fault.value, UserError)
    with pytest.raises(UserError, match="process 1: no such choice"):
        processes.together(lambda: choose({}, "x", "no such choice"))


def test_the_first_interrupt_asks_to_stop_and_the_second_one_ends(capfd):
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop_requested = processes.stop_requests()
        assert not stop_requested(1)
        signal.raise_signal(signal.SIGINT)
        assert stop_requested(2)
        assert "Ctrl-C again stops at once" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as under nohup
        processes.stop_requests()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_gather_that_loses_its_peer_is_told_from_a_fault(monkeypatch):
    """JAX raises ValueError there, which is also the type of a user's mistake."""
    monkeypatch.setattr(processes, "several", lambda: True)
    said = "UNKNOWN: Gloo AllGather failed: [pair.cc:547] Connection closed by peer [127.0.0.1]:1"
    assert processes.is_lost(ValueError(said))
    assert not processes.is_lost(ValueError("no task of this name"))
    assert not processes.is_lost(UserError("gloo: no connection"))
