"""Rows of made-up results, as launch.sweep writes them."""

COLUMNS = {
    "name": "", "address": "", "status": "finished", "family": "transformer", "seed": 0,
}  # fmt: skip
OUTCOME = {
    "steps": 100,
    "parameters": 2000,
    "non_embedding_parameters": 1000,
    "training_tokens": 6400,
    "training_flops": 38_400_000,
    "validation_loss": None,
    "best_validation_loss": None,
    "bits_per_character": None,
    "seconds": 3.5,
    "commit": "abc",
    "versions": "jax=1 numpy=2",
    "device": "cpu",
    "error": None,
}


def row(name, varied=None, **fields):
    """A row whose columns of varied fields stand where they do in results.csv."""
    address = f"{sum(map(ord, name)):010x}"
    made = COLUMNS | {"name": name, "address": address} | (varied or {}) | OUTCOME
    unknown = fields.keys() - made.keys()
    assert not unknown, unknown
    return made | fields


def fan(loss_of, widths=(64, 128), rates=(1e-3, 2e-3, 4e-3), seeds=(0,), **varied):
    """A run of each width, rate and seed; what has no loss failed."""
    rows = []
    for width in widths:
        for rate in rates:
            for seed in seeds:
                loss = loss_of(width, rate, seed)
                fields = {"model.d_model": width, "schedule.peak_learning_rate": rate}
                name = "-".join(map(str, [*varied.values(), width, rate, seed]))
                of = row(name, varied | fields, seed=seed, validation_loss=loss)
                of["non_embedding_parameters"] = 24 * width**2
                of["training_flops"] = 6 * 24 * width**2 * 6400
                if loss is None:
                    of |= {"status": "failed", "error": "the loss of step 3 is nan"}
                rows.append(of)
    return rows


def with_column(rows, name, value_of):
    """The rows with one more varied field."""
    place = list(rows[0]).index("steps")
    return [
        dict([*list(each.items())[:place], (name, value_of(each)), *list(each.items())[place:]])
        for each in rows
    ]
