"""What a flag that does not exist may stand for."""

import difflib
from collections.abc import Collection, Sequence

# What other codebases call a flag or a field, by its name here; a path where one name is several.
_SYNONYMS = {
    "attention": ("flash",),
    "clip_norm": ("grad_clip", "max_grad_norm"),
    "compute_dtype": ("dtype", "precision"),
    "context_length": ("context", "block_size", "seq_len", "sequence_length", "max_length"),
    "d_hidden": ("width", "dim", "hidden_size", "d_model"),
    "d_model": ("width", "dim", "hidden_size", "n_embd", "embed_dim", "d_hidden"),
    "dropout_rate": ("dropout", "p_drop"),
    "final_fraction": ("min_lr",),
    "head_dim": ("d_head", "d_kv", "head_width"),
    "log_every_steps": ("log_interval",),
    "logger": ("wandb", "wandb_log", "wandb_project"),
    "max_new_tokens": ("max_tokens", "max_length"),
    "num_heads": ("heads", "n_head", "n_heads", "num_attention_heads"),
    "num_layers": ("depth", "layers", "n_layer", "n_layers", "num_blocks", "num_hidden_layers"),
    "num_samples": ("n_samples",),
    "num_steps": ("steps", "max_steps", "iterations", "max_iters", "lr_decay_iters"),
    "peak_learning_rate": ("lr", "learning_rate", "max_lr"),
    "prompt": ("start",),
    "rotary_base": ("rope_theta", "rope_base"),
    "sliding_window": ("window_size", "attention_window"),
    "use_bias": ("bias",),
    "warmup_steps": ("warmup", "warmup_iters"),
    "workdir": ("out_dir", "output_dir", "run_dir", "save_dir"),
    "checkpoint.every_steps": ("save_interval", "save_every", "always_save_checkpoint"),
    "data.path": ("dataset", "data_dir"),
    "evaluation.max_tokens": ("eval_iters", "eval_steps"),
    "evaluation.every_steps": ("eval_interval", "eval_every"),
    "schedule.name": ("decay_lr",),
}
_ANSWERS = {
    "compile": "each step is compiled",
    "device": "JAX_PLATFORMS=cpu before the command takes the CPU",
    "eval_only": "launch.evaluate measures a run",
    "init_from": "the same command resumes; --from_workdir=RUN continues another run",
    "resume": "the same command resumes; --from_workdir=RUN continues another run",
}


def hint(name: str, own: Collection[str], fields: Sequence[str]) -> str:
    """Returns what a flag that the program lacks may stand for.

    Args:
      own: the program's flags.
      fields: paths of the experiment's fields; they are flags named `config.PATH`.
    """
    found = _called(name, own) or [f"config.{field}" for field in _called(name, fields)]
    if not found and "." in name:  # the path of a field without the part before it
        found = [f"config.{each}" for each in difflib.get_close_matches(name, fields, n=1)]
    found = found or difflib.get_close_matches(name, own, n=1)
    if found:
        return f"did you mean {' or '.join(f'--{each}' for each in found)}?"
    if name in _ANSWERS:
        return _ANSWERS[name]
    return f"--help lists the flags{', --help_config the fields' if fields else ''}"


def field_hint(path: str, known: Sequence[str]) -> str:
    """Returns the fields that an unknown one may stand for, else all fields of its part."""
    part, _, name = path.rpartition(".")
    beside = {each.removeprefix(f"{part}.") for each in known if each.startswith(f"{part}.")}
    called = _called(name, known)
    found = [each for each in called if part and each.startswith(f"{part}.")] or called
    found = found or [f"{part}.{each}" for each in difflib.get_close_matches(name, beside, n=1)]
    found = found or difflib.get_close_matches(path, known, n=1, cutoff=0.75)
    if found:
        return f"did you mean {' or '.join(found)}?"
    if name in _ANSWERS:
        return _ANSWERS[name]
    if part in known:
        return f"{part} has no parts: give --config.{part}=VALUE"
    of_part = sorted(each for each in known if each.startswith(f"{path}."))
    if of_part:
        return f"it is a group of fields, such as --config.{of_part[0]}=VALUE"
    if beside:
        return f"{part} has {', '.join(sorted(beside))}"
    return f"it has {', '.join(dict.fromkeys(each.partition('.')[0] for each in known))}"


def _called(name: str, known: Collection[str]) -> list[str]:
    """Returns the flags or paths of fields whose last part has this name, here or elsewhere."""
    return [
        each
        for each in known
        if (last := each.rpartition(".")[2]) == name
        or name in _SYNONYMS.get(last, ())
        or name in _SYNONYMS.get(each, ())
    ]
