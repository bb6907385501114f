"""The embedded corpus as a tensorflow-datasets builder, which tests need: it has no network.

Importing this module imports tensorflow_datasets, an optional dependency.
"""

import tensorflow_datasets as tfds

from lm_jax.data.embedded import python_reference

NAME = "python_reference"


class PythonReference(tfds.core.GeneratorBasedBuilder):
    """CPython's language reference, one example per topic."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = None

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
        return self.dataset_info_from_configs(features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for index, text in enumerate(python_reference()):
            yield index, {"text": text}
