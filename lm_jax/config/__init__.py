"""The configuration of an experiment, its JSON form, and the checks of its values."""
