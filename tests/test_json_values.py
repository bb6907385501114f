"""JSON that anybody may have written: what is refused, and how the message names it."""

import json
import os
from typing import Any, Required, TypedDict

import pytest

from lm_jax.errors import UserError
from lm_jax.json_values import fault_of, fits, parse, read_as, read_lines_of_json


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": ', "Expecting value"),
        (b'"\xff"', "'utf-8' codec can't decode"),
        (b"[" * 100_000, "nested deeper than 100 levels"),
        (b"[" * 200 + b"]" * 200, "nested deeper than 100 levels"),
        (b"1" * 5_000, "Exceeds the limit"),
        (rb'["\ud800"]', "surrogates not allowed"),
    ],
)
def test_what_no_reader_can_use_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


@pytest.mark.parametrize("value", [[[1]] * 300, {"a": "\U0001f642"}, 10**300, "\\ud800", None])
def test_json_comes_back_as_the_standard_library_reads_it(value):
    assert parse(json.dumps(value)) == value
    assert parse(json.dumps(value).encode()) == value


class Part(TypedDict, total=False):
    size: Required[int]
    loss: float | None


class Whole(TypedDict):
    parts: dict[str, Part]
    names: list[str]
    pair: tuple[int, float]
    free: Any


WHOLE = {"parts": {"a": {"size": 3, "loss": None, "more": []}}, "names": [], "pair": [1, 2]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, ""),
        ({"parts": {"a": {"size": 3, "loss": 2}}}, ""),
        ({"parts": []}, "parts is []; expected an object"),
        ({"parts": {"a": {}}}, "it holds no parts.a.size"),
        ({"parts": {"a": {"size": True}}}, "parts.a.size is True; expected an integer"),
        ({"parts": {"a": {"size": 2.0}}}, "parts.a.size is 2.0; expected an integer"),
        ({"parts": {"a": {"size": 2**63}}}, f"parts.a.size is {2**63}; expected an integer"),
        ({"parts": {"\n": {"size": ""}}}, r"parts['\n'].size is ''; expected an integer"),
        (
            {"parts": {"a": {"size": 1, "loss": "x"}}},
            "parts.a.loss is 'x'; expected a number or null",
        ),
        (
            {"parts": {"a": {"size": 1, "loss": float("inf")}}},
            "parts.a.loss is inf; expected a number or null",
        ),
        ({"pair": [1, 10**309]}, f"pair[1] is {'1' + '0' * 59}...; expected a number"),
        ({"names": ["a", None]}, "names[1] is None; expected a text"),
        ({"names": "ab" * 99}, f"names is '{'ab' * 29}a...; expected a list"),
        ({"pair": [1]}, "pair is [1]; expected a list of 2"),
        ({"pair": [1, "x"]}, "pair[1] is 'x'; expected a number"),
    ],
)
def test_the_first_wrong_value_is_named_with_what_was_expected(change, message):
    value = WHOLE | {"free": object()} | change
    assert fault_of(value, Whole) == message
    assert fits(value, Whole) == (not message)


def test_a_file_is_named_with_its_fault(tmp_path):
    path = tmp_path / "whole.json"
    path.write_text(json.dumps(WHOLE | {"free": 1}))
    assert read_as(path, Whole)["pair"] == [1, 2]
    path.write_text(json.dumps(WHOLE))
    with pytest.raises(UserError, match="whole.json: it holds no free; restore it$"):
        read_as(path, Whole)
    path.write_text('{}\n{"a": \n')
    with pytest.raises(UserError, match="whole.json:2 is not JSON"):
        list(read_lines_of_json(path))


def test_a_pipe_is_not_waited_for_and_a_device_is_not_read_to_its_end(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "device.json").symlink_to("/dev/zero")
    for name in ("pipe", "device"):
        with pytest.raises(UserError, match=f"{name}.json is not JSON .it is a pipe or a device"):
            read_as(tmp_path / f"{name}.json", Whole)
    with pytest.raises(IsADirectoryError):
        read_as(tmp_path, Whole)
    with pytest.raises(FileNotFoundError):
        read_as(tmp_path / "missing.json", Whole)
