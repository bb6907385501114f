import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.models.convnet.convolution import convolve

CASES = [  # channels, kernel's height and width, stride, padding
    (1, (3, 3), 1, 1),
    (3, (1, 1), 1, 0),
    (3, (1, 1), 2, 0),
    (3, (3, 3), 1, 1),
    (3, (3, 3), 2, 1),
    (3, (5, 2), 3, 0),
    (2, (2, 3), 2, 4),  # more zeros than a kernel is long
    (2, (9, 8), 1, 0),  # a kernel as large as the images
    (2, (3, 3), 4, 0),  # rows and columns at the end that no window reads
]


def arrays(channels, size):
    source = np.random.default_rng(0)
    return (
        jnp.asarray(source.normal(size=(2, 9, 8, channels)), jnp.float32),
        jnp.asarray(source.normal(size=(*size, channels, 4)), jnp.float32),
    )


def with_gradients(x, kernel, stride, padding):
    y, gradients = jax.vjp(lambda x, k: convolve(x, k, stride, padding), x, kernel)
    return y, *gradients(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))


@pytest.mark.parametrize(("channels", "size", "stride", "padding"), CASES)
def test_forms_for_cpus_are_those_of_other_devices(channels, size, stride, padding, monkeypatch):
    x, kernel = arrays(channels, size)
    found = with_gradients(x, kernel, stride, padding)
    monkeypatch.setattr("lm_jax.models.convnet.convolution.target", lambda: "cuda")
    for ours, theirs in zip(found, with_gradients(x, kernel, stride, padding), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_several_kernels_at_once_are_as_one_by_one():
    x, kernel = arrays(3, (3, 3))
    kernels = jnp.stack([kernel, 2 * kernel])
    found = jax.vmap(lambda k: with_gradients(x, k, 2, 1))(kernels)
    for row in range(2):
        alone = with_gradients(x, kernels[row], 2, 1)
        for ours, theirs in zip(found, alone, strict=True):
            np.testing.assert_allclose(ours[row], theirs, atol=2e-5)


@pytest.mark.parametrize(("size", "stride", "padding"), [((3, 3), 1, 1), ((3, 3), 2, 1)])
def test_in_a_loop_every_convolution_has_the_layout_of_the_fast_kernel(size, stride, padding):
    x, kernel = arrays(3, size)

    def step(kernel, x):
        y, dx, dkernel = with_gradients(x, kernel, stride, padding)
        return kernel - 0.1 * dkernel, (y, dx)

    several = jnp.stack([x, x, x])
    text = jax.jit(lambda k: jax.lax.scan(step, k, several)).lower(kernel).compile().as_text()
    layouts = re.findall(r"dim_labels=(\S+?)[,\s]", text)
    assert "while(" in text and layouts == ["b01f_01io->b01f"] * 3
