"""Prints the model of the experiment that flags describe, or the error that they raise."""

import sys

from launch import experiment_flags


def main() -> None:
    """Parses the command line as a program with --config does."""
    experiment_flags.define()
    try:
        print(experiment_flags.parse(["program", *sys.argv[1:]]))
        print(experiment_flags.experiment().model)
    except Exception as error:
        print(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
