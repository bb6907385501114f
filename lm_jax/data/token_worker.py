"""A process that `token_stream` starts: it encodes the batches that come on its standard input.

python -m lm_jax.data.token_worker DIRECTORY_OF_THE_TOKENIZER
"""

import os
import pickle
import sys

from lm_jax.data.token_stream import Encoded, encode_pieces
from lm_jax.data.tokenizers import load_tokenizer
from lm_jax.errors import UserError


def serve(directory: str) -> None:
    """Answers each batch with its tokens, or with the error, until the input ends."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is a process for each core
    tokenizer = load_tokenizer(directory)
    while True:
        try:
            batch = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            found: Encoded | UserError = encode_pieces(tokenizer, batch)
        except UserError as error:
            found = error
        pickle.dump(found, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
