"""Models of other libraries: their weights, configurations and tokenizers, in and out."""
