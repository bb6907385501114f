"""The programs: `python -m launch.train --help`, and likewise every other module here."""
