"""The program `launch.scaling_law`, run on CSV files."""

import csv
import json

import numpy as np
import pytest

from tests.launch.programs import launch


def write(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return f"--points={path}"


def chinchilla(n, d):
    return 1.82 + 482 / n**0.348 + 2085 / d**0.366


@pytest.fixture
def runs(tmp_path):
    rng = np.random.default_rng(0)
    n, d = (np.exp(rng.uniform(*np.log(limits), 60)) for limits in ((1e7, 1e10), (1e8, 1e11)))
    loss = chinchilla(n, d) * np.exp(0.002 * rng.standard_normal(60))
    kept = [[*row, "base"] for row in zip(n, d, loss, strict=True)]
    return write(tmp_path / "runs.csv", ["n", "tokens", "loss", "kind"], [*kept, [1, 1, -1, "bad"]])


def test_a_parametric_law_with_its_pictures(runs, tmp_path):
    code, last, err = launch(
        "scaling_law",
        runs,
        "--law=parametric",
        "--d_column=tokens",
        "--where=kind=base",
        "--budget=1e22",
        "--resamples=200",
        f"--output={tmp_path / 'page'}",
    )
    assert code == 0, err
    found = json.loads(last)
    assert found["num_points"] == 60
    for name, value in {"E": 1.82, "alpha": 0.348, "beta": 0.366, "exponent_n": 0.5126}.items():
        low, high = found["intervals"][name]
        assert low < found[name] < high
        assert found[name] == pytest.approx(value, rel=0.05)
    assert found["predictions"][0]["loss"] == pytest.approx(2.135, rel=0.01)
    files = {path.name for path in (tmp_path / "page").iterdir()}
    assert {"frontier.svg", "contours.png", "residuals.svg", "scaling_law.html"} <= files


def test_tokens_follow_from_flops(tmp_path):
    rows = []
    for c in np.geomspace(1e18, 1e20, 5):
        for n in np.geomspace(1e7, 1e10, 15):
            rows.append([n, c, chinchilla(n, c / (6 * n))])
    points = write(tmp_path / "iso.csv", ["size", "flops", "val"], rows)
    columns = ["--n_column=size", "--flops_column=flops", "--loss_column=val"]
    code, last, err = launch("scaling_law", points, "--law=isoflop", *columns)
    assert code == 0, err
    assert json.loads(last)["exponent_n"] == pytest.approx(0.5126, abs=0.01)


@pytest.fixture
def tuned(tmp_path):
    """Two families with exponents 0.1 and 0.15, each size of each with three learning rates."""
    rng, rows = np.random.default_rng(0), []
    for family, alpha in (("lstm", 0.1), ("transformer", 0.15)):
        for n in np.geomspace(1e4, 1e6, 8):
            best = 8 * n**-alpha * np.exp(0.002 * rng.standard_normal())
            rows += [[family, n, rate, best * worse] for rate, worse in ((1, 2), (2, 1), (4, 1.1))]
    return write(tmp_path / "tuned.csv", ["family", "n", "rate", "loss"], rows)


@pytest.mark.slow
def test_families_by_their_best_rates(tuned, tmp_path):
    """Each size counts with its best rate; each family has its own exponent and line."""
    page = tmp_path / "page"
    options = ["--law=power", "--group_column=family", "--resamples=100", f"--output={page}"]
    code, last, err = launch("scaling_law", tuned, "--best_per=n", *options)
    assert code == 0, err
    found = json.loads(last)
    assert found["num_points"] == 16
    own = found["groups"]["own_exponents"]
    for family, alpha in (("lstm", 0.1), ("transformer", 0.15)):
        low, high = own["intervals"][f"alpha[{family}]"]
        assert low < alpha < high < low + 0.01
    (low, high) = found["groups"]["differences"]["alpha[lstm] - alpha[transformer]"]
    assert low < -0.05 < high < -0.04
    drawn = (page / "groups.svg").read_text()
    assert "lstm, exponent 0.1" in drawn and "transformer, exponent 0.1" in drawn
    assert not (page / "law.svg").exists()
    shown = (page / "scaling_law.html").read_text()
    assert "alpha[lstm] - alpha[transformer]" in shown and "tuned.csv --best_per=n" in shown
    source = json.loads((page / "scaling_law.json").read_text())["points"]
    assert source["best_per"] == ["n"] and source["group_column"] == "family"


def test_the_best_of_each_is_of_a_column(tuned):
    code, _, err = launch("scaling_law", tuned, "--law=power", "--best_per=family,width")
    assert code == 1
    assert "has no column width; its columns are family, n, rate, loss" in err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--law=parametric"], "no column d; its columns are n, tokens, loss, kind"),
        (["--law=parametric", "--d_column=tokens"], "line 62: -1"),
        (["--law=parametric", "--d_column=tokens", "--where=kind=none"], "no rows of 61 pass"),
        (["--law=parametric", "--d_column=tokens", "--where=kind"], "expected column=value"),
        (["--law=parametric", "--d_column=tokens", "--budget=big"], "expected training FLOPs"),
    ],
)
def test_bad_input_is_one_line(runs, arguments, message):
    code, _, err = launch("scaling_law", runs, *arguments)
    assert code == 1
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err
