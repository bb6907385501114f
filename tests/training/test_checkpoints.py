import gc
import shutil
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.config.experiment import CheckpointConfig
from lm_jax.digests import MANIFEST
from lm_jax.errors import UserError
from lm_jax.training.checkpoints import Checkpoints, finished_steps


def test_the_best_outlives_the_last_and_is_found_again(tmp_path):
    config = CheckpointConfig(keep_last=1, keep_best=1)
    checkpoints = Checkpoints(tmp_path / "checkpoints", config)
    for step, cross_entropy in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 2.5)):
        checkpoints.save(step, {"x": jnp.full(2, step)}, cross_entropy)
    checkpoints.close()

    again = Checkpoints(tmp_path / "checkpoints", config, read_only=True)
    assert again.steps() == [4, 2]
    (tmp_path / "checkpoints" / "5.orbax-checkpoint-tmp").mkdir()  # was not saved to the end
    assert finished_steps(tmp_path / "checkpoints") == [2, 4]
    assert finished_steps(tmp_path / "none") == []
    shape = {"x": jax.ShapeDtypeStruct((2,), jnp.int32, sharding=jnp.zeros(2).sharding)}
    step, state = again.restore(shape, "best", print)
    assert step == 2 and state["x"].tolist() == [2, 2]
    step, part = again.restore(None, "last", print, parts=("x",))
    assert step == 4 and part.keys() == {"x"} and part["x"].tolist() == [4, 4]
    again.close()


def test_what_was_the_last_and_the_best_as_of_a_step_stays(tmp_path):
    config = CheckpointConfig(keep_last=1, keep_best=1)
    checkpoints = Checkpoints(tmp_path / "checkpoints", config, keep_step=4)
    measured = {1: 3.0, 2: 2.0, 3: 2.5, 4: None, 5: 2.25, 6: 1.0, 7: 1.5, 8: None}
    for step, cross_entropy in measured.items():
        checkpoints.save(step, {"x": jnp.full(2, step)}, cross_entropy)
    checkpoints.close()
    assert finished_steps(tmp_path / "checkpoints") == [2, 4, 6, 8]


def test_parameters_of_another_shape_are_named(tmp_path):
    directory, config = tmp_path / "checkpoints", CheckpointConfig()
    with Checkpoints(directory, config) as checkpoints:
        checkpoints.save(1, {"params": {"head": {"bias": jnp.zeros(2)}}}, 3.0)
    with Checkpoints(directory, config, read_only=True) as checkpoints:
        checkpoints.refuse_other_shapes("last", {"head": {"bias": jnp.zeros(2)}})
        with pytest.raises(UserError, match=r"head.bias of the checkpoint .* is \(2,\), .* \(3,\)"):
            checkpoints.refuse_other_shapes("last", {"head": {"bias": jnp.zeros(3)}})
        with pytest.raises(UserError, match=r"head.bias .* is \(2,\), and of the model absent"):
            checkpoints.refuse_other_shapes("last", {})


@pytest.mark.parametrize(
    "content",
    [b"{", b"\xff", b"[]", b'{"cross_entropy": null}', b"{}", b"[" * 100_000]
    + [f'{{"cross_entropy": {number}}}'.encode() for number in ("NaN", "1" * 400, "true")],
    ids=range(9),
)
def test_damaged_metrics_keep_no_checkpoint_from_being_read(content, tmp_path):
    config, said = CheckpointConfig(keep_last=2), []
    with Checkpoints(tmp_path, config) as checkpoints:
        for step, cross_entropy in ((1, 3.0), (2, 2.0)):
            checkpoints.save(step, {"x": jnp.full(2, step)}, cross_entropy)
    (tmp_path / "2" / "metrics" / "metrics").write_bytes(content)
    with Checkpoints(tmp_path, config) as checkpoints:
        assert checkpoints.restore(None, "last", said.append)[0] == 2
        assert checkpoints.restore(None, "best", lambda _: None)[0] == 1
        checkpoints.save(3, {"x": jnp.full(2, 3)}, 2.5)
    assert said == ["the metrics of the checkpoint of step 2 cannot be read: it is not the best"]
    assert finished_steps(tmp_path) == [2, 3]  # the best and the last two


@pytest.mark.parametrize(
    ("cause", "advises"),
    [
        (RuntimeError("DATA_LOSS: [OS error 28: No space left on device]"), True),
        (OSError(122, "Disk quota exceeded"), True),
        (RuntimeError("another process did not answer"), False),
    ],
)
def test_space_is_advised_where_there_is_none(cause, advises, tmp_path, monkeypatch):
    def fails(self, *_, **__):
        raise cause

    monkeypatch.setattr("orbax.checkpoint.CheckpointManager.save", fails)
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        with pytest.raises(OSError, match="start again: finished checkpoints are complete") as told:
            checkpoints.save(1, {"x": jnp.zeros(1)})
    assert ("free some space" in str(told.value)) == advises


def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path):
    config, said = CheckpointConfig(keep_last=2), []
    with Checkpoints(tmp_path, config) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"x": jnp.full(2, step)})
    for path in (tmp_path / "2").rglob("*"):
        if path.is_file() and "ocdbt" in str(path.name) + str(path.parent):
            path.write_bytes(b"")
    with Checkpoints(tmp_path, config, read_only=True) as checkpoints:
        step, state = checkpoints.restore(None, "last", said.append)
    assert step == 1 and state["x"].tolist() == [1, 1]
    assert len(said) == 1 and said[0].startswith("the checkpoint of step 2 cannot be read")


def test_a_checkpoint_that_changes_while_it_is_read_is_not_restored(tmp_path, monkeypatch):
    with Checkpoints(tmp_path, CheckpointConfig(keep_last=2)) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"x": jnp.full(2, step)})
    damage = Checkpoints._damage

    def changed_behind(self, step):
        found = damage(self, step)
        if step == 2:  # it was whole a moment ago
            shutil.copytree(tmp_path / "1" / "default", self._path(2), dirs_exist_ok=True)
        return found

    monkeypatch.setattr(Checkpoints, "_damage", changed_behind)
    said = []
    with Checkpoints(tmp_path, CheckpointConfig(), read_only=True) as checkpoints:
        step, state = checkpoints.restore(None, "last", said.append)
    assert step == 1 and state["x"].tolist() == [1, 1]
    assert len(said) == 1 and "changed while it was read" in said[0]


def test_no_flipped_bit_of_a_checkpoint_is_restored(tmp_path):
    rng, said = np.random.default_rng(0), []
    state = {"params": {"x": rng.standard_normal(999, np.float32)}, "step": np.int32(2)}
    with Checkpoints(tmp_path, CheckpointConfig(keep_last=2)) as checkpoints:
        checkpoints.save(1, {"params": {"x": np.zeros(999, np.float32)}, "step": np.int32(1)})
        checkpoints.save(2, state)
    files = [path for path in (tmp_path / "2" / "default").rglob("*") if path.is_file()]
    large = max(files, key=lambda path: path.stat().st_size)
    assert large.stat().st_size > state["params"]["x"].nbytes / 2  # it holds the array
    with Checkpoints(tmp_path, CheckpointConfig(), read_only=True) as checkpoints:
        for path in [large] * 5 + [path for path in files if path.name != "commit_success.txt"]:
            content = bytearray(path.read_bytes())
            bit = int(rng.integers(8 * len(content)))
            content[bit // 8] ^= 1 << bit % 8
            good = path.read_bytes()
            path.write_bytes(content)
            said.clear()
            for parts in (None, ("params",)):
                step, found = checkpoints.restore(None, "last", said.append, parts)
                assert step == 1 and not found["params"]["x"].any(), path
            assert len(said) == 2 and said[0].startswith("the checkpoint of step 2 cannot be read")
            with pytest.raises(UserError, match="checkpoint of step 2 in .* cannot be read"):
                checkpoints.saved_params("2")
            path.write_bytes(good)
        step, found = checkpoints.restore(None, "last", said.append)
        assert step == 2
        np.testing.assert_array_equal(found["params"]["x"], state["params"]["x"])


def test_a_checkpoint_of_an_earlier_version_has_no_manifest_and_is_read_without_a_word(tmp_path):
    said = []
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(1, {"x": jnp.full(2, 7)})
    (manifest,) = tmp_path.rglob(MANIFEST)
    manifest.unlink()
    with Checkpoints(tmp_path, CheckpointConfig(), read_only=True) as checkpoints:
        step, state = checkpoints.restore(None, "last", said.append)
    assert step == 1 and state["x"].tolist() == [7, 7] and not said


def test_what_cannot_be_read_is_set_aside_and_saving_goes_on(tmp_path):
    config, said = CheckpointConfig(keep_last=1), []
    with Checkpoints(tmp_path, config) as checkpoints:
        checkpoints.save(30, {"x": jnp.full(2, 30)})
    (tmp_path / "999").mkdir()  # as a crash of the machine may leave it
    shutil.copytree(tmp_path / "30", tmp_path / "40")
    (tmp_path / "40" / "default" / "_METADATA").write_bytes(b"")
    (tmp_path / "damaged-000040").mkdir()
    (tmp_path / "damaged-000040" / "earlier").touch()
    with Checkpoints(tmp_path, config, read_only=True) as checkpoints:
        assert checkpoints.restore(None, "last", said.append)[0] == 30
    assert finished_steps(tmp_path) == [30, 40, 999]  # who only reads moves nothing
    assert len(said) == 2 and not any("kept as" in line for line in said)
    said.clear()
    with Checkpoints(tmp_path, config) as checkpoints:
        assert checkpoints.restore(None, "last", said.append)[0] == 30
        assert [line.rpartition("; ")[2] for line in said] == [
            "it is kept as damaged-000999",
            "it is kept as damaged-000040",
        ]
        assert checkpoints.steps() == [30]
        checkpoints.save(35, {"x": jnp.full(2, 35)})
    assert finished_steps(tmp_path) == [35]
    assert (tmp_path / "damaged-000040" / "earlier").exists()
    assert len(list(tmp_path.glob("damaged-000040*/default/d"))) == 1
    with Checkpoints(tmp_path, config, read_only=True) as checkpoints:
        step, state = checkpoints.restore(None, "last", said.append)
    assert step == 35 and state["x"].tolist() == [35, 35]


def test_a_checkpoint_is_saved_although_there_is_a_later_one(tmp_path):
    with Checkpoints(tmp_path, CheckpointConfig(keep_last=2)) as checkpoints:
        checkpoints.save(40, {"x": jnp.full(2, 40)})
        checkpoints.save(35, {"x": jnp.full(2, 35)})
    assert finished_steps(tmp_path) == [35, 40]


def test_a_save_leaves_no_list_of_metrics_in_memory(tmp_path):
    """Each save left 24 lists such as [{"value": 3}], and 20 KiB."""

    def lists():
        gc.collect()
        kept = (found for found in gc.get_objects() if type(found) is list and len(found) == 1)
        return sum(type(found[0]) is dict and "value" in found[0] for found in kept)

    with Checkpoints(tmp_path, CheckpointConfig(keep_last=1)) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(2)})
        before = lists()
        for step in range(2, 5):
            checkpoints.save(step, {"x": jnp.zeros(2)})
    assert lists() == before


@pytest.mark.slow
def test_the_import_of_checkpoints_prints_nothing():
    """A caller from Python sees what orbax logs: programs silence it, and notebooks do not."""
    command = [sys.executable, "-c", "import lm_jax.training.checkpoint_handler"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "overriding" not in found.stderr


def test_arrays_that_are_read_too_late_show_no_traceback(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", shown.append)
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(2)})
    (tmp_path / "1" / "default" / "digests.json").unlink()  # as earlier versions saved
    (tmp_path / "1" / "default" / "_METADATA").write_text("{")
    for _ in range(2):
        with Checkpoints(tmp_path, CheckpointConfig(), read_only=True) as checkpoints:
            with pytest.raises(UserError, match="cannot be read"):
                checkpoints.restore(None, "last", print)
    errors = RuntimeError("Event loop is closed"), RuntimeError("Event loop is open")
    late, other = (SimpleNamespace(exc_value=error) for error in errors)
    for found in (late, other):
        sys.unraisablehook(found)
    assert shown == [other]
