"""Damage to files that have a manifest of digests."""

import json
import os

import numpy as np
import pytest
import xxhash

from lm_jax import digests
from lm_jax.digests import MANIFEST, digests_of, find_damage, write_manifest


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """Files of 0, 1, 2 and 3 blocks of 64 bytes."""
    monkeypatch.setattr(digests, "_BLOCK", 64)
    monkeypatch.setattr(digests, "_CHUNK", 48)  # does not divide a block
    (tmp_path / "inner").mkdir()
    rng = np.random.default_rng(0)
    for size, name in ((0, "empty"), (64, "one"), (65, "inner/two"), (180, "three")):
        (tmp_path / name).write_bytes(rng.bytes(size))
    write_manifest(tmp_path)
    return tmp_path


def test_digests_are_those_of_xxhash(directory):
    found = digests_of(directory)
    assert {name: len(blocks) for name, blocks in found.items()} == {
        "empty": 1,
        "inner/two": 2,
        "one": 1,
        "three": 3,
    }
    content = (directory / "three").read_bytes()
    assert found["three"][2] == xxhash.xxh3_64_hexdigest(content[128:])
    # Published test value of XXH3: the digest of nothing (xxHash's sanity checks, seed 0).
    assert found["empty"] == ["2d06800538d394c2"]


def test_every_single_flipped_bit_is_found(directory):
    assert find_damage(directory) == ""
    for name in ("one", "inner/two", "three"):
        path = directory / name
        content = path.read_bytes()
        for bit in range(0, 8 * len(content), 5):
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            assert find_damage(directory) == f"{name} is damaged: its digest differs"
        path.write_bytes(content)
    assert find_damage(directory) == ""


def test_shares_cover_all_blocks_and_a_bound_limits_them(directory):
    content = (directory / "three").read_bytes()
    (directory / "three").write_bytes(content[:-1] + b"\0")
    found = [find_damage(directory, share=share, num_shares=3) for share in range(3)]
    assert sum(map(bool, found)) == 1
    assert find_damage(directory, most_bytes=0) == ""
    sampled = [bool(find_damage(directory, most_bytes=3 * 64)) for _ in range(64)]
    assert any(sampled) and not all(sampled)  # 3 of 7 blocks, 64 times


@pytest.mark.parametrize(
    ("break_it", "problem"),
    [
        (lambda d: (d / "one").unlink(), "one is missing"),
        (lambda d: (d / "three").write_bytes(b"short"), "three has another size"),
        (lambda d: (d / "empty").write_bytes(b"x"), "empty is damaged"),
        (lambda d: (d / MANIFEST).write_text("{"), "digests.json is damaged"),
        (lambda d: (d / MANIFEST).write_text(json.dumps({"files": 3})), "digests.json is damaged"),
    ],
)
def test_other_damage_is_named(break_it, problem, directory):
    break_it(directory)
    assert find_damage(directory).startswith(problem)


def test_files_of_earlier_versions_are_not_judged(tmp_path):
    (tmp_path / "old").write_bytes(b"x")
    assert find_damage(tmp_path) == ""


@pytest.mark.parametrize("name", ["../secret", "/etc/hosts", "a/../../secret", "", "a\0b"])
def test_a_manifest_of_others_leads_to_no_file_beyond_its_folder(name, tmp_path):
    (tmp_path / "secret").write_text("x")
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / MANIFEST).write_text(json.dumps({"files": {name: ["0" * 16]}}))
    assert find_damage(folder) == "digests.json names a file beyond its folder"


def test_a_manifest_that_names_a_pipe_does_not_wait_for_its_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / MANIFEST).write_text(json.dumps({"files": {"pipe": ["0" * 16]}}))
    assert find_damage(tmp_path) == "pipe is no file"
