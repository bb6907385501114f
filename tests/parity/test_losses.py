"""Losses beside PyTorch's."""

import numpy as np
import pytest

from tests.parity.recorded import draws, reference
from tests.training.test_loop import smoothed_cross_entropy


def test_smoothed_labels_cost_what_they_cost_in_pytorch():
    logits, targets = draws("logits", (64, 31), 3.0), np.arange(64) % 31

    def compute(inputs):
        import torch

        logits, targets = map(torch.tensor, inputs)
        return {"loss": torch.nn.functional.cross_entropy(logits, targets, label_smoothing=0.1)}

    theirs = reference("losses", "label smoothing", compute, (logits, targets))
    ours = smoothed_cross_entropy(logits, targets, 0.1)
    assert ours == pytest.approx(float(theirs["loss"]), rel=1e-6)
