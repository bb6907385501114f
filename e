error: flag --config.training.num_steps=ten: expected an integer
