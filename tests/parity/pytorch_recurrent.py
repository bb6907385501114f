"""The recurrent models in PyTorch, with our parameters. Arrays in, arrays out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

CELLS = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
GATES = {"rnn": 1, "lstm": 4, "gru": 3}


def _tensor(x: Any, requires_grad: bool = False) -> torch.Tensor:
    return torch.tensor(np.array(x), requires_grad=requires_grad)


def _tokens(x: Any) -> torch.Tensor:
    return _tensor(x).long()


def _layer(cell: str, layer: Mapping[str, Any], suffix: str) -> dict[str, torch.Tensor]:
    """Returns a layer's parameters by PyTorch's names: it adds a second bias for the gru's sake."""
    width = layer["recurrent"]["kernel"].shape[0]
    second = np.zeros(GATES[cell] * width, np.float32)
    if cell == "gru":
        second[2 * width :] = layer["recurrent_bias"]
    values = {
        f"weight_ih_{suffix}": layer["input"]["kernel"].T,
        f"weight_hh_{suffix}": layer["recurrent"]["kernel"].T,
        f"bias_ih_{suffix}": layer["bias"],
        f"bias_hh_{suffix}": second,
    }
    return {name: _tensor(value) for name, value in values.items()}


def _arrays(**values: Any) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in values.items()}


def _gradients(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {f"grad {n}": p.grad.numpy() for n, p in module.named_parameters() if p.grad is not None}


def language_model(cell: str, num_layers: int, inputs: Any) -> dict[str, np.ndarray]:
    """Returns logits, final states and the gradients of the mean cross-entropy."""
    params, batch = inputs
    table, output, bias = (
        _tensor(params[name], requires_grad=True) for name in ("embedding", "output", "output_bias")
    )
    width = params["layer_0"]["recurrent"]["kernel"].shape[0]
    network = CELLS[cell](table.shape[1], width, num_layers, batch_first=True)
    state = {}
    for index in range(num_layers):
        state |= _layer(cell, params[f"layer_{index}"], f"l{index}")
    network.load_state_dict(state)
    h_btd, final = network(table[_tokens(batch["inputs"])])
    logits = h_btd @ output.T + bias
    targets = _tokens(batch["targets"]).flatten()
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets).backward()
    h, c = final if cell == "lstm" else (final, final)
    tables = {"embedding": table, "output": output, "output_bias": bias}
    gradients = {f"grad {name}": leaf.grad.numpy() for name, leaf in tables.items()}
    return _arrays(logits=logits, h=h, c=c) | gradients | _gradients(network)


def classifier(config: Any, inputs: Any) -> dict[str, np.ndarray]:
    """Returns logits of packed sequences and the gradients of the mean cross-entropy."""
    params, batch, lengths = inputs
    network = CELLS[config.cell](
        config.d_embedding, config.d_hidden, config.num_layers, bidirectional=config.bidirectional
    )
    state = {}
    for index in range(config.num_layers):
        state |= _layer(config.cell, params[f"forward_{index}"], f"l{index}")
        if config.bidirectional:
            state |= _layer(config.cell, params[f"backward_{index}"], f"l{index}_reverse")
    network.load_state_dict(state)
    embedded = _tensor(params["embedding"])[_tokens(batch["inputs"]).T]
    h, final = network(torch.nn.utils.rnn.pack_padded_sequence(embedded, torch.tensor(lengths)))
    h, _ = torch.nn.utils.rnn.pad_packed_sequence(h)
    final = final[0] if config.cell == "lstm" else final
    pooled = {
        "last": torch.cat(list(final[-2:] if config.bidirectional else final[-1:]), dim=1),
        "mean": h.sum(0) / torch.tensor(lengths)[:, None],
        "max": torch.stack([h[:n, row].max(0).values for row, n in enumerate(lengths)]),
    }[config.pooling]
    logits = pooled @ _tensor(params["head"]["kernel"]) + _tensor(params["head"]["bias"])
    torch.nn.functional.cross_entropy(logits, _tokens(batch["targets"])).backward()
    return _arrays(logits=logits) | _gradients(network)


def seq2seq(config: Any, inputs: Any) -> dict[str, np.ndarray]:
    """Returns the logits of two LSTMs, of which the first one's final states start the second."""
    params, batch = inputs
    networks = {}
    for name in ("encoder", "decoder"):
        networks[name] = torch.nn.LSTM(5, config.d_hidden, 2, batch_first=True)
        layers = (_layer("lstm", params[f"{name}_{i}"], f"l{i}") for i in range(2))
        networks[name].load_state_dict({k: v for layer in layers for k, v in layer.items()})
    source = _tokens(batch["source"])
    source = source.flip(1) if config.reverse_source else source
    _, final = networks["encoder"](_tensor(params["source_embedding"])[source])
    targets = _tensor(params["embedding"])[_tokens(batch["inputs"])]
    h_btd, _ = networks["decoder"](targets, final)
    return _arrays(logits=h_btd @ _tensor(params["output"]).T + _tensor(params["output_bias"]))


def bidirectional_states(inputs: Any) -> dict[str, np.ndarray]:
    """Returns the final states of an encoder of two LSTM layers in both directions."""
    params, batch = inputs
    network = torch.nn.LSTM(6, 6, 2, batch_first=True, bidirectional=True)
    state = {}
    for i in range(2):
        state |= _layer("lstm", params[f"encoder_{i}"], f"l{i}")
        state |= _layer("lstm", params[f"encoder_backward_{i}"], f"l{i}_reverse")
    network.load_state_dict(state)
    _, (h, c) = network(_tensor(params["source_embedding"])[_tokens(batch["source"])])
    return _arrays(h=h, c=c)
