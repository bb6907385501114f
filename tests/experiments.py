"""Experiments small enough for tests."""

from lm_jax.config.experiment import Experiment


def tiny(**fields) -> Experiment:
    """One layer of 32 on the embedded corpus; `part__field=value` overrides."""
    config = Experiment()
    config.model.context_length, config.model.num_layers = 32, 1
    config.model.d_model, config.model.num_heads = 32, 4
    config.data.tokenizer.vocab_size = 512
    config.training.num_steps, config.training.batch_size = 20, 8
    config.training.steps_per_call, config.training.log_every_steps = 5, 1
    config.schedule.warmup_steps = 5
    config.evaluation.batch_size, config.evaluation.baselines = 64, False
    config.samples.num_samples, config.samples.max_new_tokens = 0, 8
    config.mesh = "data:1"
    config.tensorboard = False
    for path, value in fields.items():
        part, name = path.split("__") if "__" in path else (None, path)
        setattr(getattr(config, part) if part else config, name, value)
    return config
