"""ResNet-18 for small images in PyTorch, as a baseline (He et al. 2016, section 4.2's stem)."""

import torch
from torch import Tensor, nn


def _conv_norm(inputs: int, outputs: int, size: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """Two 3 x 3 convolutions beside the input, which a 1 x 1 convolution fits where it must."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.first = _conv_norm(inputs, outputs, 3, stride)
        self.second = _conv_norm(outputs, outputs, 3, 1)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else _conv_norm(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(torch.relu(self.first(x)))
        return torch.relu(y + self.shortcut(x))


def resnet18(channels: int, classes: int) -> nn.Module:
    """Returns the network for images below 64 x 64: [b, c, h, w] to logits [b, classes]."""
    blocks: list[nn.Module] = []
    inputs = 64
    for stage in range(4):
        outputs = 64 * 2**stage
        blocks += [Residual(inputs, outputs, 2 if stage else 1), Residual(outputs, outputs, 1)]
        inputs = outputs
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))
    return nn.Sequential(_conv_norm(channels, 64, 3, 1), nn.ReLU(), *blocks, *head)
