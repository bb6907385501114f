"""Data: source -> documents -> tokens -> batches, each a pure function of its configuration."""

from collections.abc import Callable
from functools import partial
from typing import Any

from lm_jax.data.classification.batches import Examples as Examples
from lm_jax.data.classification.batches import LabelledSet as LabelledSet
from lm_jax.data.classification.batches import Reader as Reader
from lm_jax.data.classification.batches import evaluation_examples as evaluation_examples
from lm_jax.data.classification.batches import image_reader as image_reader
from lm_jax.data.classification.batches import text_reader as text_reader
from lm_jax.data.classification.batches import training_examples as training_examples
from lm_jax.data.classification.images import prepare_images
from lm_jax.data.classification.labelled_text import LABELLED_TEXT
from lm_jax.data.config import DataConfig as DataConfig
from lm_jax.data.config import ImageConfig as ImageConfig
from lm_jax.data.config import LabelledTextConfig as LabelledTextConfig
from lm_jax.data.config import ParallelTextConfig as ParallelTextConfig
from lm_jax.data.config import SymbolsConfig as SymbolsConfig
from lm_jax.data.config import TokenizerConfig as TokenizerConfig
from lm_jax.data.dataset import Dataset as Dataset
from lm_jax.data.documents import Documents as Documents
from lm_jax.data.documents import TokenizedDocuments as TokenizedDocuments
from lm_jax.data.documents import texts_of as texts_of
from lm_jax.data.documents import tokenize as tokenize
from lm_jax.data.pipeline import prepare_text
from lm_jax.data.seq2seq.packing import evaluation_packed_pairs as evaluation_packed_pairs
from lm_jax.data.seq2seq.packing import training_packed_pairs as training_packed_pairs
from lm_jax.data.seq2seq.parallel_corpus import PARALLEL_TEXT
from lm_jax.data.seq2seq.parallel_corpus import ParallelSet as ParallelSet
from lm_jax.data.seq2seq.parallel_corpus import ParallelSplit as ParallelSplit
from lm_jax.data.text.corpus import TEXT
from lm_jax.data.text.corpus import Corpus as Corpus
from lm_jax.data.text.denoising_batches import Corruption as Corruption
from lm_jax.data.text.denoising_batches import evaluation_corrupted as evaluation_corrupted
from lm_jax.data.text.denoising_batches import masking as masking
from lm_jax.data.text.denoising_batches import prefixing as prefixing
from lm_jax.data.text.denoising_batches import span_corruption as span_corruption
from lm_jax.data.text.denoising_batches import text_length as text_length
from lm_jax.data.text.denoising_batches import training_corrupted as training_corrupted
from lm_jax.data.text.skip_gram_batches import evaluation_pairs as evaluation_pairs
from lm_jax.data.text.skip_gram_batches import training_pairs as training_pairs
from lm_jax.data.text.windows import contiguous_batches as contiguous_batches
from lm_jax.data.text.windows import evaluation_batches as evaluation_batches
from lm_jax.data.text.windows import training_batches as training_batches
from lm_jax.data.tokenizers import Tokenizer as Tokenizer
from lm_jax.data.tokenizers import load_tokenizer as load_tokenizer
from lm_jax.data.tokenizers import train_tokenizer as train_tokenizer
from lm_jax.data.word_boundaries import word_boundaries as word_boundaries

_PREPARE: dict[str, Callable[[Any], Dataset[Any, Any]]] = {
    "text": partial(prepare_text, TEXT),
    "labelled_text": partial(prepare_text, LABELLED_TEXT),
    "parallel_text": partial(prepare_text, PARALLEL_TEXT),
    "images": prepare_images,
}


def prepare(config: Any) -> Dataset[Any, Any]:
    """Returns the data set of a configuration: one of `config.KINDS`, or one from outside.

    A configuration from outside has a method `prepare`, which returns the data set.

    Raises:
      UserError: the data cannot be had.
      OSError: the cache directory cannot be written.
    """
    if config.kind in _PREPARE:
        return _PREPARE[config.kind](config)
    return config.prepare()


def expected_sizes(config: Any) -> dict[str, int]:
    """Returns the sizes that the data decides of a model; prepares the data only if it must.

    For text, that is the tokenizer's maximum vocabulary size. Other kinds of data are prepared.

    Raises:
      UserError: the data has to be prepared and cannot be had.
    """
    return config.expected_sizes or prepare(config).sizes
