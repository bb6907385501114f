"""The work that launch.benchmark times, ours and the same in PyTorch."""
