"""How fast it is: the work of `launch.benchmark`, timed beside the same work in PyTorch."""
