import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import slow_but
from tests.launch.programs import run

HERE = Path(__file__).parent
RUNS = [(path.stem, steps) for path in sorted(HERE.glob("*.json")) for steps in (5, 50)]


# Whatever changes the numbers at all changes those after the first step.
@pytest.mark.parametrize(
    ("family", "steps"), slow_but(RUNS, ("shakespeare_char_cpu", 5)), ids=lambda value: str(value)
)
def test_the_first_losses_are_those_of_the_ledger(family, steps):
    golden = json.loads((HERE / f"{family}.json").read_text())
    golden["losses"] = golden["losses"][:steps]
    # Its own process: simulated devices would divide the threads, and with them the sums.
    status, out, err = run("tests.golden.regenerate", family, str(steps), XLA_FLAGS="")
    assert status == 0, err
    found = json.loads(out.splitlines()[-1])
    if found["machine"] == golden["machine"]:
        assert found["losses"] == golden["losses"]
    else:  # other instructions and versions round otherwise
        floats = [[float.fromhex(loss) for loss in entry["losses"]] for entry in (found, golden)]
        np.testing.assert_allclose(*floats, rtol=2e-3)
