"""One experiment per file: `get_config() -> Experiment`."""
