"""Made-up rows of results in the form that launch.sweep writes."""

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
    """Returns a row with its columns of varied fields in the order of results.csv."""
    address = f"{sum(map(ord, name)):010x}"
    made = COLUMNS | {"name": name, "address": address} | (varied or {}) | OUTCOME
    unknown = fields.keys() - made.keys()
    assert not unknown, unknown
    return made | fields


def grid_rows(loss_of, widths=(64, 128), rates=(1e-3, 2e-3, 4e-3), seeds=(0,), **varied):
    """Returns a row for each width, rate and seed; a run without a loss has failed."""
    rows = []
    for width in widths:
        for rate in rates:
            for seed in seeds:
                loss = loss_of(width, rate, seed)
                fields = {"model.d_model": width, "schedule.peak_learning_rate": rate}
                name = "-".join(map(str, [*varied.values(), width, rate, seed]))
                found = row(name, varied | fields, seed=seed, validation_loss=loss)
                found["non_embedding_parameters"] = 24 * width**2
                found["training_flops"] = 6 * 24 * width**2 * 6400
                if loss is None:
                    found |= {"status": "failed", "error": "the loss of step 3 is nan"}
                rows.append(found)
    return rows


def with_column(rows, name, value_of):
    """Returns the rows with one more varied field."""
    index = list(rows[0]).index("steps")
    return [
        dict([*list(each.items())[:index], (name, value_of(each)), *list(each.items())[index:]])
        for each in rows
    ]
