"""One preparation of a corpus a file: `get_preparation() -> PreparationConfig`."""
