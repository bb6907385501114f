"""Formats of records, a file each; any other file is text as it stands."""

from lm_jax.data.formats.columns import ARROW, PARQUET
from lm_jax.data.formats.interface import Format as Format
from lm_jax.data.formats.interface import Record as Record
from lm_jax.data.formats.interface import Request as Request
from lm_jax.data.formats.json_lines import JSON_LINES
from lm_jax.data.formats.separated_values import SEPARATED_VALUES
from lm_jax.data.formats.warc import WARC

FORMATS: dict[str, Format] = {  # a file is of the first one that it matches
    "Parquet": PARQUET,
    "Arrow": ARROW,
    "WARC": WARC,
    "CSV": SEPARATED_VALUES,
    "JSONL": JSON_LINES,
}
