"""Every field of a configuration as a table; docs/configuration.md is this for all kinds.

python -m lm_jax.config.documentation > docs/configuration.md
"""

import dataclasses
import typing
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from lm_jax.config.experiment import Experiment
from lm_jax.data.config import KINDS
from lm_jax.data.preparation.config import PreparationConfig
from lm_jax.fields import description_of
from lm_jax.models import FAMILIES

_INTRODUCTION = """\
# Configuration

Every field is a flag: `--config.training.num_steps=200`. The first table holds the fields of each
experiment; `model` has those of its family, `data` those of its kind. Defaults are those of the
code; a file in `configs/` sets others.

```
python -m launch.train --config=configs/quickstart.py --help_config
```

shows the fields of one experiment with its own values.
`python -m lm_jax.config.documentation > docs/configuration.md` writes this page from the code.
"""

_PREPARATION = """\
## Preparation of a corpus

Fields of `launch.prepare_data`: `--config.tasks=64`.
"""


class FieldRow(NamedTuple):
    """One field for people."""

    path: str  # such as training.num_steps
    type: str
    value: str
    help: str  # what it means and what it accepts


def field_rows(config: Any, prefix: str = "") -> Iterator[FieldRow]:
    """Yields a row for each field of a configuration and of its parts, in their order."""
    types = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            yield from field_rows(value, f"{path}.")
            continue
        description = description_of(field)
        accepted = description.accepted(field.name)
        meaning = f"{description.help} {accepted[:1].upper()}{accepted[1:]}"
        meaning = f"{meaning.strip().removesuffix('.')}."
        kind = types[field.name]
        yield FieldRow(path, getattr(kind, "__name__", str(kind)), _text(value), meaning)


def page() -> str:
    """Returns docs/configuration.md: fields of experiments, families, data and preparations."""
    common = [
        row for row in field_rows(Experiment()) if row.path.split(".")[0] not in ("model", "data")
    ]
    parts = [_INTRODUCTION, "## Experiment\n", _table(common)]
    for name, family in FAMILIES.items():
        parts += [f"## Model family `{name}`\n", _table(field_rows(family.config(), "model."))]
    for name, kind in KINDS.items():
        parts += [f"## Data kind `{name}`\n", _table(field_rows(kind(), "data."))]
    parts += [_PREPARATION, _table(field_rows(PreparationConfig()))]
    return "\n".join(parts)


def _text(value: Any) -> str:
    """Returns a value as a flag takes it; "" for an empty text."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _table(rows: Iterator[FieldRow] | Sequence[FieldRow]) -> str:
    lines = ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]
    for row in rows:
        value = f"`{row.value}`" if row.value else ""
        meaning = row.help.replace("|", "\\|").replace("<", "\\<")
        lines.append(f"| `{row.path}` | {row.type} | {value} | {meaning} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
