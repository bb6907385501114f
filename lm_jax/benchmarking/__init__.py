"""What launch.benchmark times, and the same work in PyTorch."""
