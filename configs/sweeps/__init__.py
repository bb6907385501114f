"""One sweep a file: `get_sweep() -> dict[str, Experiment]`."""
