"""Text in, text out: prompts, the decode loop, sampling and beam search."""
