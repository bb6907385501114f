"""Data: source -> documents -> tokens -> batches, each a pure function of its configuration."""

from lm_jax.data.batches import TokenizedDocuments as TokenizedDocuments
from lm_jax.data.batches import evaluation_batches as evaluation_batches
from lm_jax.data.batches import training_batches as training_batches
from lm_jax.data.config import DataConfig as DataConfig
from lm_jax.data.config import TokenizerConfig as TokenizerConfig
from lm_jax.data.corpus import Corpus as Corpus
from lm_jax.data.corpus import prepare as prepare
from lm_jax.data.corpus import texts_of as texts_of
from lm_jax.data.corpus import tokenize as tokenize
from lm_jax.data.tokenizers import Tokenizer as Tokenizer
from lm_jax.data.tokenizers import load_tokenizer as load_tokenizer
