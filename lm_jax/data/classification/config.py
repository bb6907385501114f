"""The configurations of labelled texts and of images."""

import dataclasses
from typing import ClassVar

from lm_jax.data.classification import images, labelled_text
from lm_jax.data.kind import DataKind, check_choice
from lm_jax.data.tokenizer_config import TokenizerConfig
from lm_jax.errors import UserError
from lm_jax.fields import described, validate_fields


@dataclasses.dataclass
class LabelledTextConfig(DataKind):
    """Texts with a label each: `label<TAB>text`, JSONL or CSV of `label` and `text`, or tfds."""

    kind: ClassVar[str] = "labelled_text"

    source: str = described(
        "files", "The reader.", choices_in="lm_jax.data.classification.labelled_text:READERS"
    )
    path: str = described("", "files: a file, a directory or a glob; tfds: the name of a data set.")
    validation_path: str = described(
        "", "files: held-out texts; empty: a hash of each text decides."
    )
    test_path: str = described(
        "",
        "files: texts for launch.evaluate --split=test; tfds: the data set whose test split it is, "
        "which then no longer serves as validation. Empty: no test split.",
    )
    validation_fraction: float = described(
        0.1, "Share that is held out, unless the source holds out a split.", above=0, below=1
    )
    cache_directory: str = described(
        "",
        "Where prepared data is kept; empty: $XDG_CACHE_HOME/lm_jax/data or ~/.cache/lm_jax/data.",
    )
    tokenizer: TokenizerConfig = dataclasses.field(
        default_factory=lambda: TokenizerConfig(kind="word", vocab_size=20_000, lowercase=True)
    )

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of texts and of held-out texts."""
        return (self.path, self.validation_path, self.test_path)

    def validate(self) -> None:
        """Raises UserError for an unknown choice or an impossible value."""
        validate_fields(self, "data.")
        check_choice("source", self.source, labelled_text.READERS)
        self.tokenizer.validate()
        if self.source in labelled_text.READERS and not self.path:
            raise UserError(f"data.source={self.source} needs data.path: what should be read?")


@dataclasses.dataclass
class ImageConfig(DataKind):
    """Images with a label each; pixels are numbers from 0 to 1."""

    kind: ClassVar[str] = "images"
    has_text: ClassVar[bool] = False

    source: str = described(
        "digits",
        "The reader; digits: scikit-learn's, and_gate: four points.",
        choices_in="lm_jax.data.classification.images:READERS",
    )
    path: str = described("", "idx: a directory; npz: a file; tfds: the name of a data set.")
    test_path: str = described(
        "",
        "As path: whose test images launch.evaluate --split=test measures; the same as path: they "
        "no longer serve as validation. Empty: no test split.",
    )
    validation_fraction: float = described(
        0.1, "Share that is held out, unless there is a test split.", above=0, below=1
    )
    label_names: str = described(
        "", "Names of the classes, comma-separated; empty: those of the data set, or numbers."
    )
    crop_padding: int = described(
        0, "Augmentation: pixels of zeros on each side before a random crop.", minimum=0
    )
    flip: bool = described(False, "Augmentation: mirror left to right with probability 1/2.")
    cache_directory: str = described(
        "",
        "Where prepared data is kept; empty: $XDG_CACHE_HOME/lm_jax/data or ~/.cache/lm_jax/data.",
    )

    def validate(self) -> None:
        """Raises UserError for an unknown choice or an impossible value."""
        validate_fields(self, "data.")
        check_choice("source", self.source, images.READERS)
        if self.source in images.READERS_OF_PATHS and not self.path:
            raise UserError(f"data.source={self.source} needs data.path")
        if self.source in images.READERS_WITHOUT_PATH and (self.path or self.test_path):
            field = "path" if self.path else "test_path"
            given = self.path or self.test_path
            raise UserError(
                f"data.source={self.source} takes no data.{field}, which is {given!r}; if that is "
                f"from the configuration, empty it: --config.data.{field}="
            )
