import itertools

import pytest

from lm_jax.telemetry.goodput import TimeSheet, bars


def test_every_second_is_booked_to_what_it_went_to():
    now = itertools.accumulate([12, 3, 40, 1, 44], initial=0)
    next(now)
    sheet = TimeSheet(started=2, clock=lambda: next(now))
    for activity in ("starting", "compiling", "steps", "input", "steps"):
        sheet.record_time(activity)
    goodput = sheet.goodput()
    assert goodput["starting"] == 10 and goodput["compiling"] == 3 and goodput["steps"] == 84
    assert sum(goodput.values()) - goodput["share"] == 98
    assert goodput["share"] == pytest.approx(84 / 98)
    assert bars(goodput) == [
        ("steps", pytest.approx(8400 / 98), True),
        ("waiting for input", pytest.approx(100 / 98), False),
        ("compiling the step", pytest.approx(300 / 98), False),
        ("starting", pytest.approx(1000 / 98), False),
    ]


def test_nothing_booked_is_no_share():
    assert TimeSheet(0.0).goodput()["share"] == 0 and bars({}) == []
