import math

import jax
import pytest
from jax.sharding import AxisType

from lm_jax.build import build_experiment
from lm_jax.config.serialization import from_dict, to_dict
from lm_jax.errors import UserError
from lm_jax.objectives.validation import validate
from lm_jax.parallel import sharding
from lm_jax.parallel.mesh import AXES, automatic, axis_sizes, parse, show
from tests.experiments import tiny


def test_axes_that_are_not_named_have_one_device():
    rest = {"expert": 1, "tensor": 1, "sequence": 1}
    assert axis_sizes("fsdp:4,data:2", 8) == {"data": 2, "fsdp": 4, **rest}
    assert tuple(axis_sizes("fsdp:4,data:2", 8)) == AXES
    assert axis_sizes("tensor:2,data:-1", 8)["data"] == 4


@pytest.mark.parametrize("text", ["data:1", "fsdp:8", "data:2,fsdp:2,tensor:2,sequence:4"])
def test_what_is_shown_can_be_given(text):
    assert show(parse(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data:3", "mesh data:3 does not fit 8 devices"),
        ("data:16", "does not fit 8 devices"),
        ("data:-1,tensor:3", "does not fit 8 devices"),
        ("data:-1,fsdp:-1", "at most one axis may be -1"),
        ("data:0", "a size must be a number of devices"),
        ("data:-2", "a size must be a number of devices"),
        (
            "fsdp=8",
            "'fsdp=8' is no axis with its size; expected for example data:2,fsdp:4, with data",
        ),
        ("pipeline:8", "'pipeline:8' is no axis"),
        ("data:2,data:4", "'data:4' is no axis with its size; .* at most once each"),
        ("data:2,", "'' is no axis"),
        ("data:two", "'data:two' is no axis"),
        ("data:\u00b2", "'data:\u00b2' is no axis"),
        ("auto", "'auto' is no axis"),
        ("data:" + "9" * 5000, "is no axis with its size"),
    ],
)
def test_a_mistaken_or_unfit_mesh_is_refused(text, message):
    with pytest.raises(UserError, match=message) as error:
        sharding.make_mesh(text, jax.devices()[:8])
    assert "\n" not in str(error.value)


def test_a_configuration_names_a_mesh_or_leaves_it_open():
    validate(tiny(mesh="auto"))
    with pytest.raises(UserError, match="mesh dta:8: 'dta:8' is no axis"):
        validate(tiny(mesh="dta:8"))


def test_a_mesh_that_a_run_wrote_as_sizes_is_read():
    values = to_dict(tiny()) | {"mesh": {"data": -1, "fsdp": 4, "tensor": 1}}
    assert from_dict(values).mesh == "data:-1,fsdp:4"


@pytest.mark.parametrize(
    ("gigabytes", "memory", "mesh"),
    [
        (1, 80, "data:8"),  # a small model
        (40, 80, "data:8"),
        (41, 80, "data:4,fsdp:2"),
        (112, 80, "data:2,fsdp:4"),  # 7B: 16 bytes a parameter
        (1120, 80, "fsdp:8"),  # 70B: too large for eight, and best split over all
        (1120, None, "data:8"),
        (0, None, "data:8"),
    ],
)
def test_auto_splits_what_is_too_large_for_a_device(gigabytes, memory, mesh):
    assert automatic(8, 1e9 * gigabytes, memory and 1e9 * memory) == mesh


def test_auto_leaves_no_device_idle():
    for count in (1, 2, 6, 12, 64):
        for state in (0, 10, 100, 1000):
            assert math.prod(axis_sizes(automatic(count, state, 40), count).values()) == count


def test_auto_asks_for_the_size_of_the_state():
    def mesh_of(device_bytes):
        built = build_experiment(
            tiny(mesh="auto", model__num_layers=2),
            {"vocab_size": 512},
            jax.devices()[:8],
            device_bytes,
        )
        assert built.experiment.mesh == show(built.mesh.shape)
        return built.experiment.mesh

    # Two layers of 12 x 32^2, two tables of 512 + 32 rows: 0.17 MB, and as much for the gradients
    # and each moment of AdamW.
    assert mesh_of(2e6) == mesh_of(None) == "data:8"
    assert mesh_of(1e6) == "data:4,fsdp:2"
    assert mesh_of(1e3) == "fsdp:8"


def test_a_torus_without_sides_of_these_sizes_is_cut(monkeypatch):
    """As JAX refuses eight of 4 x 4 x 4 chips."""

    def refuse(*arguments, **options):
        raise NotImplementedError("no assignment for logical_axis_index 1 of size 4")

    monkeypatch.setattr(jax, "make_mesh", refuse)
    mesh = sharding.make_mesh("data:2,fsdp:4", jax.devices()[:8])
    assert {axis: n for axis, n in mesh.shape.items() if n > 1} == {"data": 2, "fsdp": 4}
    assert {device.id for device in mesh.devices.flat} == {d.id for d in jax.devices()[:8]}
    assert set(mesh.axis_types) == {AxisType.Auto}
