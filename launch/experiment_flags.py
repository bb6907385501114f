"""The flag --config, and a flag --config.PART.FIELD for each field of the experiment that it names.

The fields are known once the file of --config has run, so the command line is parsed twice.
"""

import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from absl import flags

from launch import dataclass_flags, unknown_flags
from lm_jax import trusted_code
from lm_jax.errors import UserError

if TYPE_CHECKING:
    from lm_jax.config.experiment import Experiment

_SHIPPED = "configs/*.py"
TRUST_CODE = flags.DEFINE_bool(
    "trust_code",
    False,
    "Run the code (file.py:ATTRIBUTE) that work directories name; once, they are then trusted.",
)
flags.disclaim_key_flags()  # --help of a program lists --config as its own
_defined: list[flags.FlagHolder[str | None]] = []
_parsed: list[Callable[[], Any]] = []
_HELP = "help_config"
_HELPFULL = ("--helpfull", "-helpfull", "--helpfull=true")
Base = Callable[["Experiment | None"], "Experiment | None"]
_bases: list[Base] = []


class Kind(NamedTuple):
    """A kind of configuration that --config names."""

    noun: str
    shipped: str  # where its files are
    load: Callable[[str], Any]  # FILE or FILE:CHOICE -> configuration
    finish: Callable[[Any], Any]  # configuration with the flags -> the same, checked


_kinds: list[Kind] = []


def define(
    base: Base = lambda given: given, kind: Kind | None = None
) -> flags.FlagHolder[str | None]:
    """Defines --config, whose value is FILE or FILE:CHOICE, and returns its holder.

    Args:
      base: (experiment of --config, None without one) -> the experiment whose fields become flags;
        it may read other flags.
      kind: what --config names; None: an experiment.
    """
    kind = kind or _EXPERIMENT
    holder = flags.DEFINE_string(
        "config", None, f"The {kind.noun}, a Python file: {kind.shipped} or yours."
    )
    flags.DEFINE_bool(_HELP, False, f"Show every field of the {kind.noun} of --config, and exit.")
    _defined.append(holder)
    _bases.append(base)
    _kinds.append(kind)
    return holder


def parse(argv: Sequence[str]) -> list[str]:
    """Parses all flags and returns the other arguments, the name of the program first.

    Raises:
      UserError: the file of --config cannot be used, or a field of the experiment does not exist.
      flags.Error: any other flag is unknown or has a value that it does not accept.
    """
    if _defined:
        # absl shows all flags as soon as it parses --helpfull: the fields have to be there.
        others = [argument for argument in argv if argument not in _HELPFULL]
        shows_all = len(others) < len(argv)
        try:
            flags.FLAGS(others, known_only=True)
        except flags.IllegalFlagValueError:  # the fields are shown without --workdir, too
            if not (flags.FLAGS[_HELP].value or shows_all):
                raise
        _consent()
        name, shows_fields = _defined[0].value, flags.FLAGS[_HELP].value
        try:
            found = _bases[0](_kinds[0].load(name) if name else None)
        except (UserError, flags.IllegalFlagValueError):  # there is no run to read
            if name or not shows_all:
                raise
            found = None
        if found is not None:
            _parsed[:] = [dataclass_flags.define(found, prefix="config.")]
        flags.FLAGS.unparse_flags()
        if shows_fields:
            _show_fields(argv)
    try:
        others = flags.FLAGS(argv)
        _consent()
        return others
    except flags.UnrecognizedFlagError as error:
        if _defined and error.flagname.startswith("config."):
            raise UserError(_unknown_field(error.flagname, error.flagvalue)) from None
        given = error.flagvalue or f"--{error.flagname}"
        raise UserError(f"{given}: there is no such flag; {flag_hint(error.flagname)}") from None


def _consent() -> None:
    if flags.FLAGS["trust_code"].value:
        trusted_code.consent()


def flag_hint(name: str) -> str:
    """Returns what a flag that the program lacks may stand for."""
    own = [flag.name for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])]
    return unknown_flags.hint(name, own, _fields())


def _fields() -> list[str]:
    return [flag.removeprefix("config.") for flag in flags.FLAGS if flag.startswith("config.")]


def _show_fields(argv: Sequence[str]) -> NoReturn:
    """Prints the fields of the experiment with the values of the command line, and exits."""
    if not _parsed:
        raise UserError(
            f"--help_config shows the fields of the {_kinds[0].noun}; give --config=FILE"
        )
    with contextlib.suppress(flags.IllegalFlagValueError):  # a required flag that is missing
        flags.FLAGS(argv)
    from lm_jax.config.documentation import field_rows
    from lm_jax.reports.text_table import text_table

    rows = [
        (f"--config.{row.path}", row.type, row.value or "''", row.help)
        for row in field_rows(_parsed[0]())
    ]
    print("\n".join(text_table(rows, "<<<<")))
    sys.exit(0)


def experiment(begun: Path | None = None) -> "Experiment":
    """Returns the experiment of --config with the fields that the command line sets.

    A warm-up that the command line does not set becomes shorter if it would take all steps.

    Args:
      begun: the work directory that is continued, if it is there: a run that was begun with a
        shorter warm-up can be trained longer.

    Raises:
      UserError: it cannot run.
    """
    return _finish(_parse(), begun)


def configuration() -> Any:
    """Returns the configuration of --config, of any kind, with the fields of the command line.

    Raises:
      UserError: it cannot be used, or there is none.
    """
    return _kinds[0].finish(_parse())


def _parse() -> Any:
    if not _parsed:
        raise UserError(f"give the {_kinds[0].noun} with --config=FILE")
    return _parsed[0]()


def _finish(parsed: "Experiment", begun: Path | None = None) -> "Experiment":
    from lm_jax.config.experiment import shorter_warmup_note, with_shorter_warmup
    from lm_jax.objectives.validation import validate
    from lm_jax.runs.workdir import read_experiment

    result = parsed
    if not flags.FLAGS["config.schedule.warmup_steps"].present:
        before = None
        if begun:
            with contextlib.suppress(UserError):  # there is no run, or none that can be read
                before = read_experiment(begun)
        result = with_shorter_warmup(parsed, before)
        if note := shorter_warmup_note(parsed, result):
            print(note, file=sys.stderr)
    validate(result)
    return result


def _load(name: str) -> "Experiment":
    from lm_jax.config.config_file import call_config_file
    from lm_jax.config.experiment import Experiment
    from lm_jax.config.serialization import allow_code

    result = call_config_file(name, "get_config", _SHIPPED)
    if not isinstance(result, Experiment):
        raise UserError(
            f"get_config() of --config={name} returned {type(result).__name__}; expected "
            "lm_jax.config.experiment.Experiment, as in configs/quickstart.py"
        )
    allow_code(result)
    return result


_EXPERIMENT = Kind("experiment", _SHIPPED, _load, _finish)


def _unknown_field(name: str, value: str | None) -> str:
    path = name.removeprefix("config.")
    given = value or f"--{name}"
    if not _parsed:
        return f"{given} sets a field of the {_kinds[0].noun}; give it with --config=FILE"
    known = _fields()
    chosen = (value or "").partition("=")[2]
    choices = {each: _choices(each) for each in known}
    same = [each for each in known if chosen in choices[each] and _part(each) == _part(path)]
    hint = f"did you mean {' or '.join(same)}?" if same else unknown_flags.field_hint(path, known)
    return f"{given}: the configuration has no field {path}; {hint}"


def _part(path: str) -> str:
    return path.rpartition(".")[0]


def _choices(path: str) -> Sequence[str]:
    parser = flags.FLAGS[f"config.{path}"].parser
    return parser.enum_values if isinstance(parser, flags.EnumParser) else ()
