"""`launch.sweep_report` on a trained sweep."""

import json

import pytest

from tests.launch.programs import launch
from tests.launch.test_sweep import BROKEN, SOUND, sweep, write


@pytest.mark.slow
def test_a_trained_sweep_has_a_page_with_curves_and_the_loss_by_position(tmp_path):
    directory = tmp_path / "sweep"
    status, _, err = sweep(write(tmp_path, 10), directory)
    assert status == 1, err
    arguments = [f"--sweepdir={directory}", f"--by_position={SOUND}"]
    status, last, err = launch("sweep_report", *arguments)
    assert status == 0, err
    found = json.loads(last)
    assert found["pictures"] == ["learning_rates", "curves", "positions"]
    page = (directory / "report.html").read_text()
    assert BROKEN in page and "lower schedule.peak_learning_rate" in page
    assert f"--by_position={SOUND}" in page  # the command that draws it again

    (workdir,) = (directory / "runs").glob(f"{SOUND}-*")
    by_position = json.loads((workdir / "by_position_validation.json").read_text())
    evaluation = json.loads((workdir / "evaluation.json").read_text())["validation"]
    assert by_position["tokens"] == evaluation["tokens"]
    assert by_position["cross_entropy"] == pytest.approx(evaluation["cross_entropy"], rel=1e-5)

    status, last, err = launch("evaluate", f"--workdir={workdir}", "--by_position", "--stride=8")
    assert status == 0, err
    strided = json.loads(last)
    assert strided["validation"]["tokens"] == evaluation["tokens"]
    assert strided["validation"]["cross_entropy"] != evaluation["cross_entropy"]
    assert json.loads((workdir / "by_position_validation.json").read_text())["stride"] == 8

    status, _, err = launch("sweep_report", f"--sweepdir={directory}", f"--by_position={BROKEN}")
    assert status == 1 and "has no finished run of that name" in err
