"""Layers and networks of images in PyTorch, with our parameters. Arrays [B, H, W, C] in and out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

Arrays = dict[str, np.ndarray]


def _tensor(x: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(x))


def _images(x_bhwc: Any) -> torch.Tensor:
    return _tensor(x_bhwc).permute(0, 3, 1, 2).contiguous()


def _array(x_bchw: torch.Tensor) -> np.ndarray:
    return x_bchw.detach().permute(0, 2, 3, 1).numpy()


def _kernel(kernel_hwio: Any) -> torch.Tensor:
    return _tensor(kernel_hwio).permute(3, 2, 0, 1)


def convolution(stride: int, padding: int, inputs: Any) -> Arrays:
    """Returns the output, and the gradients of images and kernel for a given cotangent."""
    x, weight = _images(inputs["x"]).requires_grad_(), _kernel(inputs["kernel"]).requires_grad_()
    y = F.conv2d(x, weight, stride=stride, padding=padding)
    y.backward(_images(inputs["cotangent"]))
    dkernel = weight.grad.permute(2, 3, 1, 0).numpy()
    return {"y": _array(y), "dx": _array(x.grad), "dkernel": dkernel}


def max_pooling(size: int, stride: int, padding: int, inputs: Any) -> Arrays:
    """Returns the output, and the gradient of the images for a given cotangent."""
    x = _images(inputs["x"]).requires_grad_()
    y = F.max_pool2d(x, size, stride, padding)
    y.backward(_images(inputs["cotangent"]))
    return {"y": _array(y), "dx": _array(x.grad)}


def pooling_in_ceiling_mode(x: np.ndarray) -> Arrays:
    """Returns the output of max pooling that pads the last row and column."""
    return {"y": _array(F.max_pool2d(_images(x), 3, 2, ceil_mode=True))}


def local_response_norm(x: np.ndarray) -> Arrays:
    """Returns the output of AlexNet's normalisation."""
    norm = torch.nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
    return {"y": _array(norm(_images(x)))}


def batch_norm(inputs: Any) -> Arrays:
    """Returns the outputs of training on all images but the last, and of evaluation on the last."""
    module = torch.nn.BatchNorm2d(len(inputs["scale"]))
    with torch.no_grad():
        module.weight.copy_(_tensor(inputs["scale"]))
        module.bias.copy_(_tensor(inputs["bias"]))
    *training, last = inputs["images"]
    found = {f"y{i}": _array(module(_images(x))) for i, x in enumerate(training)}
    moments = {"mean": module.running_mean.numpy(), "variance": module.running_var.numpy()}
    return found | moments | {"evaluated": _array(module.eval()(_images(last)))}


def residual_network(depths: Sequence[int], bottleneck: bool, inputs: Any) -> Arrays:
    """Returns the logits of a ResNet with these numbers of blocks a stage."""
    variables, images = inputs
    params, stats = variables["params"], variables["batch_stats"]

    def conv(x: torch.Tensor, path: Sequence[str], stride: int = 1, padding: int = 0) -> Any:
        layer, moments = params, stats
        for name in path:
            layer, moments = layer[name], moments[name]
        x = F.conv2d(x, _kernel(layer["kernel"]), stride=stride, padding=padding)
        mean, variance = (_tensor(moments["norm"][name]) for name in ("mean", "variance"))
        scale, bias = (_tensor(layer["norm"][name]) for name in ("scale", "bias"))
        return F.batch_norm(x, mean, variance, scale, bias)

    x = F.relu(conv(_images(images), ["conv_1"], 2, 3))
    x = F.max_pool2d(x, 3, 2, 1)
    number = 0
    for stage, depth in enumerate(depths):
        for block in range(depth):
            number += 1
            name, stride = f"residual_{number}", 2 if stage and not block else 1
            if bottleneck:
                y = F.relu(conv(x, [name, "reduce"]))
                y = F.relu(conv(y, [name, "conv"], stride, 1))
                y = conv(y, [name, "expand"])
            else:
                y = F.relu(conv(x, [name, "conv_1"], stride, 1))
                y = conv(y, [name, "conv_2"], 1, 1)
            if "shortcut" in params[name]:
                x = conv(x, [name, "shortcut"], stride)
            x = F.relu(x + y)
    weight, bias = (_tensor(params["head"][name]) for name in ("kernel", "bias"))
    return {"logits": F.linear(x.mean(dim=(2, 3)), weight.T, bias).numpy()}


def keras_recipe(inputs: Any) -> Arrays:
    """Returns the logits of two convolutions with pooling and two dense layers."""
    variables, images = inputs
    params, x = variables["params"], _images(images)
    for name in ("conv_1", "conv_2"):
        kernel, bias = _kernel(params[name]["kernel"]), _tensor(params[name]["bias"])
        x = F.max_pool2d(F.relu(F.conv2d(x, kernel, bias)), 2)
    x = x.permute(0, 2, 3, 1).flatten(1)
    x = F.relu(_dense(x, params["dense_1"]))
    return {"logits": _dense(x, params["head"]).numpy()}


def _dense(x: torch.Tensor, layer: Mapping[str, Any]) -> torch.Tensor:
    return F.linear(x, _tensor(layer["kernel"]).T, _tensor(layer["bias"]))


def inception(inputs: Any) -> Arrays:
    """Returns the joined outputs of the four paths of an inception block."""
    variables, images = inputs
    params, x = variables["params"], _images(images)

    def conv(name: str, x: torch.Tensor, padding: int = 0) -> torch.Tensor:
        kernel, bias = _kernel(params[name]["kernel"]), _tensor(params[name]["bias"])
        return F.relu(F.conv2d(x, kernel, bias, padding=padding))

    paths = [
        conv("one", x),
        conv("three", conv("reduce_three", x), 1),
        conv("five", conv("reduce_five", x), 2),
        conv("pool", F.max_pool2d(x, 3, 1, 1)),
    ]
    return {"y": _array(torch.cat(paths, dim=1))}


def first_feature_maps(inputs: Any) -> Arrays:
    """Returns the tanh of LeNet's first convolution."""
    variables, images = inputs
    layer = variables["params"]["conv_1"]
    y = F.conv2d(_images(images), _kernel(layer["kernel"]), _tensor(layer["bias"]), padding=2)
    return {"y": _array(y.tanh())}


def dense_network(activation: str, inputs: Any) -> Arrays:
    """Returns the logits of a dense classifier of two hidden layers."""
    variables, images = inputs
    params, x = variables["params"], _tensor(images).flatten(1)
    for name in ("dense_1", "dense_2"):
        x = getattr(torch, activation)(_dense(x, params[name]))
    return {"logits": _dense(x, params["head"]).numpy()}
