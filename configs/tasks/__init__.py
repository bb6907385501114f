"""Tasks of questions for launch.evaluate --task."""
