"""MinHash signatures: the values of datatrove's block, several times faster.

Shingles are hashed where they stand in the text. Remainders by the Mersenne prime 2^61 - 1 take
shifts and sums, in parts that fit the cache of a processor.
"""

import numpy as np
from datatrove.pipeline.dedup.minhash import MinhashDedupSignature
from datatrove.utils.text import NUMBERS_PATTERN, PUNCTUATION, PUNCTUATION_TRANS
from xxhash import xxh64_digest

_PRIME, _PRIME_BITS = np.uint64((1 << 61) - 1), np.uint64(61)
_CHUNK = 1 << 17  # bytes of products at a time
_SPACES = np.arange(0x110000, dtype=np.uint32)  # each character, or a space for punctuation
_SPACES[list(map(ord, PUNCTUATION))] = ord(" ")


class Signatures(MinhashDedupSignature):
    """Writes the MinHash signature of each document; case, punctuation and digits do not count."""

    def get_shingles(self, text: str) -> np.ndarray:
        """Returns the hashes of all runs of `n_grams` words, [N, 1]."""
        words = self.word_tokenizer.word_tokenize(_simplified(text))
        count = len(words) - self.config.n_grams + 1
        if count < 1:
            return np.empty((0, 1), np.uint64)
        joined = " ".join(words).encode()
        spaces = np.flatnonzero(np.frombuffer(joined, np.uint8) == ord(" "))
        starts = np.append(0, spaces + 1)[:count].tolist()
        ends = np.append(spaces, len(joined))[-count:].tolist()
        digests = [xxh64_digest(joined[a:b]) for a, b in zip(starts, ends, strict=True)]
        return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)[:, None]

    def get_signature(self, shingles: np.ndarray) -> list[list[int]]:
        """Returns the smallest value of each hash function, by bands."""
        factors, terms = self.parameters
        smallest = np.full(self.num_hashes, _PRIME)
        rows = max(1, _CHUNK // (8 * self.num_hashes))
        for first in range(0, len(shingles), rows):
            values = shingles[first : first + rows] * factors
            values += terms
            remainders = values >> _PRIME_BITS
            values &= _PRIME
            remainders += values  # as 2^61 is 1, up to the prime itself
            np.subtract(remainders, _PRIME, out=values)  # wraps around where it is smaller
            np.minimum(remainders, values, out=values)
            np.minimum(smallest, values.min(axis=0), out=smallest)
        return smallest.reshape(self.config.num_buckets, -1).tolist()


def _simplified(text: str) -> str:
    """Returns a text in lower case, 0 for each number, and spaces for punctuation."""
    text = NUMBERS_PATTERN.sub("0", text.lower())
    if text.isascii():
        return text.translate(PUNCTUATION_TRANS)
    characters = _SPACES[np.frombuffer(text.encode("utf-32-le"), np.uint32)]
    return characters.tobytes().decode("utf-32-le")
