"""One sweep per file: `get_sweep() -> dict[str, Experiment]`."""
