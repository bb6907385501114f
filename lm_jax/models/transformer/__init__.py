"""The Transformer: encoder, decoder, and both."""
