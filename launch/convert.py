"""Imports pretrained weights as a work directory, and exports a run for other libraries.

  python -m launch.convert --from=hf --path=models/SmolLM2-135M --workdir=runs/imported
  python -m launch.convert --from=gguf --path=model.gguf --workdir=runs/imported
  python -m launch.convert --to=hf --workdir=runs/quickstart --path=exported

--from=hf reads a folder with config.json, safetensors and a tokenizer, --from=gguf a file. The work
directory is that of any other run: launch.evaluate --text=FILES, launch.generate, launch.train
--from_workdir=RUN --fine_tune and launch.compare read it. --to writes a folder that
AutoModelForCausalLM of transformers loads. docs/interop.md lists the architectures. The last line
of the output is JSON.
"""

from typing import Any

from absl import flags

from launch import program
from lm_jax.errors import UserError

FROM = flags.DEFINE_enum("from", None, ["hf", "gguf"], "The format to import from.")
TO = flags.DEFINE_enum("to", None, ["hf"], "The format to export to.")
PATH = flags.DEFINE_string(
    "path", None, "The folder, or the file, of the other library's model.", required=True
)
WORKDIR = flags.DEFINE_string("workdir", None, "The work directory of the run.", required=True)
CHECKPOINT = flags.DEFINE_string("checkpoint", "last", "Exported: last, best, or a step.")


def main() -> dict[str, Any]:
    """Imports or exports a model and returns what was written."""
    if (FROM.value is None) == (TO.value is None):
        raise UserError("give one of --from, which imports, and --to=hf, which exports")
    if FROM.value and CHECKPOINT.present:
        raise UserError("--checkpoint is of a run that is exported; leave it out")
    import jax

    jax.config.update("jax_platforms", "cpu")  # arrays are moved, and nothing is computed

    from lm_jax.interop.export_model import export_model
    from lm_jax.interop.import_model import import_model

    if FROM.value:
        return import_model(PATH.value, WORKDIR.value, FROM.value, log=program.log)
    return export_model(WORKDIR.value, PATH.value, CHECKPOINT.value, log=program.log)


if __name__ == "__main__":
    program.run(main)
