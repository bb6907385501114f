"""Running text: a corpus, and the ways to cut it into batches."""
