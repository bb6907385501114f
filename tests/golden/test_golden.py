import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

LEDGER = sorted(Path(__file__).parent.glob("*.json"))
PROGRAM = """
import json, sys
from tests.golden import regenerate
losses = [loss.hex() for loss in regenerate.losses(sys.argv[1], int(sys.argv[2]))]
print(json.dumps({"machine": regenerate.machine(), "losses": losses}))
"""


# Whatever changes the numbers at all changes those after the first step.
@pytest.mark.parametrize("steps", [5, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize("path", LEDGER, ids=lambda path: path.stem)
def test_the_first_losses_are_those_of_the_ledger(path, steps):
    golden = json.loads(path.read_text())
    golden["losses"] = golden["losses"][:steps]
    root = str(Path(__file__).parents[2])
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, path.stem, str(steps)],
        cwd=root,
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(process.stdout.splitlines()[-1])
    if found["machine"] == golden["machine"]:
        assert found["losses"] == golden["losses"]
    else:  # other instructions and versions round otherwise
        floats = [[float.fromhex(loss) for loss in entry["losses"]] for entry in (found, golden)]
        np.testing.assert_allclose(*floats, rtol=2e-3)
