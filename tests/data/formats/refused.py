"""How the tests of formats read a path that must be refused."""

import pytest

from lm_jax.data.text_stream import stream_texts
from lm_jax.errors import UserError


def refused(pattern, *arguments, **keywords):
    """Returns the one line with which reading a path is refused."""
    with pytest.raises(UserError) as caught:
        list(stream_texts(str(pattern), *arguments, **keywords))
    assert "\n" not in str(caught.value)
    return str(caught.value)
