"""The predicted time of schedules that are small enough to add up by hand."""

import pytest

from lm_jax.costs import timeline
from lm_jax.costs.accelerators import ACCELERATORS, Accelerator
from lm_jax.costs.hlo import Collective
from lm_jax.costs.kernels import ATTENTION, COLLECTIVE, COPY, FUSION, PRODUCT, Kernel, Loop, Wait
from lm_jax.costs.timeline import by_kind, dearest, float32_logits, kernel_seconds, predict

# A usable GFLOP/s of products and GB/s of memory, links of a usable GB/s among 4 devices, ports of
# a tenth of it.
GPU = Accelerator(
    memory_bytes=0,
    peak_flops=1e9 / timeline.USABLE_PRODUCTS,
    memory_bandwidth=1e9 / timeline.USABLE_MEMORY,
    link_bandwidth=1e9 / timeline.USABLE_LINKS,
    domain=4,
    network_bandwidth=1e8 / timeline.USABLE_LINKS,
)
TPU = GPU._replace(clock=1e9)


def kernel(kind=FUSION, gigaflops=0.0, gigabytes=0.0, **fields):
    defaults = {"name": "k", "element": "bf16", "result": "", "operation": "", "source": ""}
    sizes = {"flops": int(gigaflops * 1e9), "bytes": int(gigabytes * 1e9)}
    return Kernel(kind=kind, **(defaults | sizes | fields))


def gather(gigabytes, group=(0, 1), starts=""):
    """An all-gather, of which each of n devices sends (n - 1)/n."""
    exchange = Collective("all-gather", int(gigabytes * 1e9), len(group))
    return kernel(COLLECTIVE, exchange=exchange, group=group, starts=starts)


@pytest.mark.parametrize(
    ("made", "seconds"),
    [
        (kernel(PRODUCT, 3, 2), 3),
        (kernel(PRODUCT, 2, 3), 3),
        (kernel(PRODUCT, 3, 2, element="f32"), 6),
        (kernel(ATTENTION, 3, 2), 3 * timeline.USABLE_PRODUCTS / timeline.USABLE_ATTENTION),
        (kernel(FUSION, 0, 0), timeline.SHORTEST),
        (gather(1e-9), timeline.SHORTEST_EXCHANGE),
        (gather(4), 2),
        (gather(4, (0, 1, 2, 3)), 3),
        (gather(4, (0, 4)), 20),  # each through its own port
        (gather(4, (0, 1, 4, 5)), 15),  # two rings, through two ports of each domain
    ],
)
def test_a_kernel_takes_the_larger_of_work_and_traffic(made, seconds):
    assert kernel_seconds(made, GPU) == pytest.approx(seconds)


def test_a_tpu_has_the_estimate_of_its_compiler():
    assert kernel_seconds(kernel(PRODUCT, 3, 2, cycles=5 * 10**9), TPU) == pytest.approx(5)
    assert kernel_seconds(kernel(COPY, 0, 2), TPU) == pytest.approx(2)
    assert kernel_seconds(gather(4), TPU._replace(ring=0.5)) == pytest.approx(4)
    assert kernel_seconds(kernel(PRODUCT, 3, 2, cycles=5 * 10**9), GPU) == pytest.approx(3)


def test_kernels_run_after_one_another():
    assert predict([kernel(gigabytes=2), kernel(PRODUCT, 3)], GPU) == pytest.approx((5, 0))


def test_a_collective_is_hidden_by_the_work_between_start_and_end():
    start, work, wait = gather(8, starts="g"), kernel(gigabytes=3), Wait("g")
    assert predict([start, work, wait], GPU) == pytest.approx((4, 1))
    assert predict([start, work, work, wait], GPU) == pytest.approx((6, 0))
    assert predict([start, wait, work], GPU) == pytest.approx((7, 4))
    assert predict([gather(8), work], GPU) == pytest.approx((7, 4))  # never started before


def test_collectives_wait_for_each_other():
    first, second, work = gather(8, starts="a"), gather(2, starts="b"), kernel(gigabytes=3)
    # They end after 4 and 5 seconds; the work after 3.
    assert predict([first, second, work, Wait("b"), Wait("a")], GPU) == pytest.approx((5, 2))
    # One that nothing awaits later still comes after those under way.
    assert predict([first, work, gather(2)], GPU) == pytest.approx((5, 2))


def test_copies_run_beside_kernels_and_are_not_exposed_collectives():
    copy = kernel(COPY, gigabytes=4, starts="c")
    assert predict([copy, kernel(gigabytes=3), Wait("c")], TPU) == pytest.approx((4, 0))


def test_a_loop_takes_its_body_as_often_as_it_runs():
    body = [gather(8, starts="g"), kernel(gigabytes=3), Wait("g")]
    inner = Loop([*body, Loop([kernel(gigabytes=1)], 2)], 5)
    assert predict([inner], GPU) == pytest.approx((5 * (4 + 2), 5))


def test_kinds_and_lines_are_summed_over_loops():
    first = kernel(PRODUCT, 3, 1, source="a.py:1", name="first")
    again = first._replace(name="second")
    other = kernel(FUSION, 0, 4, source="b.py:2")
    schedule = [Loop([first, again], 2), other]
    kinds = by_kind(schedule, GPU)
    assert kinds[PRODUCT] == (4, 12 * 10**9, 4 * 10**9, pytest.approx(12))
    assert kinds[FUSION] == (1, 0, 4 * 10**9, pytest.approx(4))
    (most,) = dearest(schedule, GPU, 1)
    assert most.launches == 4 and most.seconds == pytest.approx(12)
    assert most.kernel.name == "first"
    assert [row.kernel.source for row in dearest(schedule, GPU, 9)] == ["a.py:1", "b.py:2"]


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ("f32[16,8,1000]", 4 * 128_000),
        ("f32[128,1008]", 4 * 128 * 1008),  # padded
        ("bf16[16,8,1000]", 0),
        ("f32[1000,64]", 0),  # a table
        ("f32[16,2,1000]", 0),  # a part of the tokens
        ("f32[]", 0),
        ("", 0),
    ],
)
def test_logits_of_all_tokens_in_float32_are_found(result, expected):
    assert float32_logits([Loop([kernel(result=result)], 2)], 128, 1000) == expected


def test_clocks_are_those_that_reach_the_peak():
    """FLOPs per cycle of the matrix units: 8 of 128 x 128 in a v4 or v5p, 4 in a v5e."""
    units = {"v4": 8 * 128**2, "v5p": 8 * 128**2, "v5e": 4 * 128**2, "v6e": 4 * 256**2}
    for name, size in units.items():
        device = ACCELERATORS[name]
        assert device.clock * 2 * size == pytest.approx(device.peak_flops, rel=0.01), name
