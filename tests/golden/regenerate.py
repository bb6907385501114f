"""The first 50 losses of each shipped family of configurations, and how to write them anew.

  python -m tests.golden.regenerate
  python -m tests.golden.regenerate quickstart 5

The second command prints the first 5 losses of one family, and writes nothing. Every family trains
on the text of the repository's licence, the same on every machine. Losses are kept as hexadecimal
floats, with the machine they were made on: its like must give the same bits, any other the same
numbers up to rounding.
"""

import importlib
import json
import os
import sys
import tempfile
from pathlib import Path

# Simulated devices would divide the threads, and with them the sums.
os.environ |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}

import jax  # noqa: E402

from lm_jax import data
from lm_jax.build import build_experiment, training_batches
from lm_jax.parallel import sharding
from lm_jax.training.state import init_state
from tests.golden.machine import machine

FAMILIES = ("quickstart", "shakespeare_char_cpu")
HERE = Path(__file__).parent
STEPS = 50


def losses(family: str, steps: int = STEPS) -> list[float]:
    """The losses of the first steps of a configuration, on one device."""
    config = importlib.import_module(f"configs.{family}").get_config()
    config.data = data.DataConfig(
        source="files",
        path=str(HERE.parent.parent / "LICENSE"),
        split="tail",
        drop_repeated_paragraphs=False,
        cache_directory=tempfile.mkdtemp(),
        tokenizer=data.TokenizerConfig("byte"),
    )
    config.mesh = "data:1"
    config.training.num_steps = max(STEPS, config.schedule.warmup_steps + 1)
    corpus = data.prepare(config.data)
    built = build_experiment(config, corpus.sizes, jax.devices()[:1])
    batches = training_batches(built, corpus)
    state = init_state(built.model, built.optimizer, built.example, built.mesh, config.seed)
    step = jax.jit(built.train_step)
    found = []
    with sharding.on_mesh(built.mesh):
        for index in range(steps):
            placed = sharding.place_batch(batches[index], sharding.batch_sharding(built.mesh))
            state, metrics = step(state, placed)
            found.append(float(metrics["loss"]))
    return found


def entry(family: str, steps: int = STEPS) -> dict:
    """Returns what the ledger holds of a family."""
    return {"machine": machine(), "losses": [loss.hex() for loss in losses(family, steps)]}


def main() -> None:
    """Prints the entry of the family that is named, or writes one file a family."""
    if sys.argv[1:]:
        print(json.dumps(entry(sys.argv[1], int(sys.argv[2]))))
        return
    for family in FAMILIES:
        found = entry(family)
        (HERE / f"{family}.json").write_text(json.dumps(found, indent=1) + "\n")
        print(f"{family}: {found['losses'][0]} ... {found['losses'][-1]}")


if __name__ == "__main__":
    main()
