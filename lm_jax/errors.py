"""The one type of error that a user can mend, told apart from faults of the code by its type."""


class UserError(ValueError):
    """Says in one line what was given, what was expected, and what to do; programs print it."""

    def _render_traceback_(self) -> list[str]:
        """Returns what a notebook shows: the line alone, as programs do; `%debug` has the rest."""
        return [f"{type(self).__name__}: {self}"]


class MeshError(UserError):
    """A mesh does not fit the devices, the batches or the model."""
