"""The train state, the pure step, the loop, optimizers and checkpoints."""
