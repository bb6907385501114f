"""The flag of programs that read the data of a run once more: where it is now."""

from absl import flags

DATA_PATH = flags.DEFINE_multi_string(
    "data_path",
    [],
    "Where the data is now, if it moved; it must not have changed. PATH stands for data.path, "
    "FIELD=PATH for another field, such as target_path=elsewhere/de.txt; may be repeated.",
)


def moved() -> dict[str, str]:
    """Returns where the data is now, by the field that said where it was."""
    from lm_jax.data.config import PLACES

    found = {}
    for text in DATA_PATH.value:
        field, _, place = text.partition("=")
        is_field = field in PLACES
        found[field if is_field else "path"] = place if is_field else text
    return found
