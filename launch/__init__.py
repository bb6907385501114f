"""The front doors: `python -m launch.train|evaluate|generate|count --help`."""
