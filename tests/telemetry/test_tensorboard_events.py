"""Numbers for TensorBoard are those that tensorboardX writes, and a full disk shows."""

import errno
import resource
import struct

import pytest
from tensorboardX import SummaryWriter
from tensorboardX.proto.event_pb2 import Event

from lm_jax.telemetry.tensorboard_events import TensorBoardEvents

NUMBERS = {"train/loss": 2.5, "train/tokens": 7}


def _events(directory):
    """Returns the events of a directory's only file, without their times."""
    (path,) = directory.iterdir()
    content, found = path.read_bytes(), []
    while content:  # TFRecord: length, its checksum, event, its checksum
        (length,) = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + length])
        event.wall_time = 0
        found.append(event)
        content = content[16 + length :]
    return found


@pytest.mark.parametrize("purge_step", [None, 11])
def test_events_are_those_of_tensorboardx(tmp_path, purge_step):
    theirs = SummaryWriter(str(tmp_path / "theirs"), purge_step=purge_step)
    (tmp_path / "ours").mkdir()
    ours = TensorBoardEvents(tmp_path / "ours", purge_step)
    for step in (11, 12):
        ours.add(step, NUMBERS)
        for name, value in NUMBERS.items():
            theirs.add_scalar(name, value, step)
    ours.close()
    theirs.close()
    found = _events(tmp_path / "ours")
    assert found == _events(tmp_path / "theirs")
    assert found[-1].summary.value[0].simple_value == 7


def test_a_full_disk_ends_a_run_instead_of_stopping_it(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    events = TensorBoardEvents(tmp_path, None)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(OSError) as told:
            for step in range(1000):
                events.add(step, NUMBERS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    events.close()
    assert told.value.errno == errno.EFBIG and told.value.filename == str(tmp_path)
