"""Weights & Biases and MLflow, offline: what they receive of two sittings of one run."""

import time

import pytest

from lm_jax.telemetry.loggers import LOGGERS

CONFIG = {"seed": 3, "model": {"d_model": 32}}


def log(name, workdir, step):
    with LOGGERS[name](workdir, CONFIG) as on_metrics:
        on_metrics(step, {"train/loss": 1.5 / step})


def test_wandb_receives_metrics_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for step in (1, 2):
        log("wandb", tmp_path, step)
    first, second = sorted(tmp_path.glob("wandb/offline-run-*"))
    ids = {
        folder.name.split("-")[3] for folder in (first, second)
    }  # offline-run-TIME-ID, of one second ...-ID-1
    assert len(ids) == 1
    (written,) = second.glob("*.wandb")
    deadline = time.monotonic() + 30  # its service writes the file after the run has ended
    while b"0.75" not in written.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert b"train/loss" in written.read_bytes() and b"0.75" in written.read_bytes()
    assert wandb.run is None


def test_mlflow_receives_metrics_offline(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # mlflow-skinny has no database
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    workdir = tmp_path / "run"
    workdir.mkdir()
    for step in (1, 2):
        log("mlflow", workdir, step)
    (run,) = mlflow.search_runs(output_format="list")
    assert run.info.run_name == "run" and run.info.status == "FINISHED"
    assert run.data.params == {"seed": "3", "model.d_model": "32"}
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.5), (2, 0.75)]
