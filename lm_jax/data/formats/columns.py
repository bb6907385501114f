"""Tables of columns: Parquet, and Arrow as Hugging Face `datasets` saves it. Both need pyarrow."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lm_jax.data.content import HEAD, Content, needed_for
from lm_jax.data.formats.interface import Format, Record, Request
from lm_jax.errors import UserError

_ROWS = 256  # that are turned into Python objects at a time
_READING = {"buffer_size": HEAD, "pre_buffer": False, "page_checksum_verification": True}
_REMEDY = "write that text anew as UTF-8"


def _is_parquet(content: Content, request: Request) -> bool:
    if content.suffix != ".parquet" and not content.head.startswith(b"PAR1"):
        return False
    _refuse_packed(content, "a parquet file")
    return True


def _refuse_packed(content: Content, what: str) -> None:
    if content.packed_by:  # the index stands at the end
        raise UserError(f"{content.path} is {what} in {content.packed_by}; unpack it")


def _read_parquet(content: Content, request: Request) -> Iterator[Record]:
    """Yields the rows; of a row group, only what the next rows need is in memory."""
    with needed_for(content.path, "a parquet file"):
        import pyarrow.parquet

    def batches() -> Iterator[Any]:
        table = pyarrow.parquet.ParquetFile(content.stream, **_READING)
        columns = _columns(content, request, table.schema_arrow.names)
        # Without threads, which do not survive in a process that is forked.
        yield from table.iter_batches(_ROWS, columns=columns, use_threads=False)

    yield from _rows(content, request, "a parquet file", batches)


_ARROW_FILE, _ARROW_STREAM = b"ARROW1", b"\xff\xff\xff\xff"


def _is_arrow(content: Content, request: Request) -> bool:
    starts = (_ARROW_FILE, _ARROW_STREAM)
    return content.suffix == ".arrow" or content.head.startswith(starts)


def _read_arrow(content: Content, request: Request) -> Iterator[Record]:
    """Yields the rows; one record batch is in memory, which `datasets` makes of 1,000 rows."""
    with needed_for(content.path, "an Arrow file"):
        import pyarrow

    def batches() -> Iterator[Any]:
        if content.head.startswith(_ARROW_FILE):
            if content.packed_by:  # its index stands at its end
                raise UserError(
                    f"{content.path} is an Arrow file in {content.packed_by}; unpack it"
                )
            table = pyarrow.ipc.open_file(content.stream)
            whole = map(table.get_batch, range(table.num_record_batches))
        else:
            table = whole = pyarrow.ipc.open_stream(content.stream)
        columns = _columns(content, request, table.schema.names)
        for batch in whole:
            for first in range(0, batch.num_rows, _ROWS):
                yield batch.slice(first, _ROWS).select(columns)

    yield from _rows(content, request, "an Arrow file", batches)


def _columns(content: Content, request: Request, names: Sequence[str]) -> list[str]:
    missing = ", ".join(field for field in request.fields if field not in names)
    if missing:
        raise UserError(
            f"{content.path} has the columns {', '.join(names) or 'nothing'} and no "
            f"{missing}{request.advice}"
        )
    return [*request.fields, *(name for name in request.optional if name in names)]


def _rows(
    content: Content, request: Request, what: str, batches: Callable[[], Iterator[Any]]
) -> Iterator[Record]:
    import pyarrow

    number = 0
    found = batches()
    while True:
        try:
            batch = next(found, None)
        except UserError:
            raise
        except (pyarrow.ArrowException, OSError, EOFError, ValueError, MemoryError) as error:
            raise _damaged(content, what, error) from None
        if batch is None:
            return
        try:
            columns = [_values(column) for column in batch.columns]
        except (pyarrow.ArrowException, ValueError) as error:
            raise _damaged(content, what, error) from None
        for row in zip(*columns, strict=True):
            number += 1
            values = dict(zip(batch.schema.names, row, strict=True))
            if _decode(values, request, f"{content.path}:{number}"):
                yield Record(values, f"{content.path}:{number}")
            else:
                request.decoder.count_skipped()


def _damaged(content: Content, what: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(
        f"{content.path} is {what} that cannot be read ({reason}); it is damaged or cut off: fetch "
        f"it again or leave it out of {content.file.given_by}"
    )


def _values(column: Any) -> list[Any]:
    """Returns the values of a column, its texts as bytes: pyarrow does not check their UTF-8."""
    import pyarrow

    types = pyarrow.types
    column.validate()
    if types.is_dictionary(column.type):
        return _values_of_dictionary(column)
    is_text = types.is_string(column.type) or types.is_string_view(column.type)
    if is_text or types.is_large_string(column.type):
        column = column.cast(pyarrow.large_binary())
    column.validate(full=True)  # its offsets may lead out of its buffers
    return list(column.to_pylist())


def _values_of_dictionary(column: Any) -> list[Any]:
    """Returns values that are one object where they are equal: many rows may be one long text."""
    import pyarrow

    column.validate(full=True)  # its indices may lead out of its dictionary
    indices = column.indices.to_pylist()
    used = sorted({index for index in indices if index is not None})
    words = _values(column.dictionary.take(pyarrow.array(used, pyarrow.int64())))
    known = dict(zip(used, words, strict=True))
    return [None if index is None else known[index] for index in indices]


def _decode(values: dict[str, Any], request: Request, origin: str) -> bool:
    """Decodes the texts of a row; returns False if it is to be skipped."""
    for name, value in values.items():
        if isinstance(value, bytes):
            values[name] = request.decoder.decode(value, origin, remedy=_REMEDY)
            if values[name] is None:
                return False
    return True


PARQUET = Format(_is_parquet, _read_parquet)
ARROW = Format(_is_arrow, _read_arrow)
