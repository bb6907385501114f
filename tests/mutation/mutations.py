"""Lines of the core to break, and the tests that should notice, by part of the package."""

from typing import NamedTuple


class Mutation(NamedTuple):
    """One broken line: `old` occurs once in `path`, and `new` takes its place."""

    path: str  # below lm_jax/
    old: str
    new: str
    tests: str  # files or folders below tests/, separated by spaces


def _of(path: str, tests: str, *lines: tuple[str, str]) -> list[Mutation]:
    return [Mutation(path, old, new, tests) for old, new in lines]


MUTATIONS = [
    *_of(
        "models/interface.py",
        "models/test_dense_classifier.py models/test_chunked_cross_entropy.py training",
        ("        log_normalizer - target_logits,", "        target_logits,"),
        ("jnp.argmax(logits, axis=-1) == targets", "jnp.argmin(logits, axis=-1) == targets"),
        (
            "uniform_nats = log_normalizer - jnp.mean(logits, axis=-1)",
            "uniform_nats = log_normalizer - jnp.max(logits, axis=-1)",
        ),
        ("rows_b = jnp.any(weights", "rows_b = jnp.all(weights"),
    ),
    *_of(
        "training/train_step.py",
        "training",
        ("key = jax.random.fold_in(state.key, state.step)", "key = state.key"),
    ),
    *_of(
        "training/loss_scaling.py",
        "training/test_loss_scaling.py",
        ("jnp.maximum(state.scale / 2, 1.0)", "jnp.maximum(state.scale, 1.0)"),
        ("jnp.where(is_finite, state.finite + 1, 0)", "state.finite + 1"),
    ),
    *_of(
        "training/gradients.py",
        "training",
        (
            'cross_entropy = jnp.sum(nats * batch["weights"]) / denominators.targets',
            "cross_entropy = jnp.mean(nats)",
        ),
        (
            "nats = (1 - label_smoothing) * nats + label_smoothing * losses.uniform_nats",
            "nats = nats + label_smoothing * losses.uniform_nats",
        ),
        ("total = total + term.coefficient * averages[name]", "total = total + averages[name]"),
        (
            "whole = denominators.targets if is_per_target else denominators.rows",
            "whole = denominators.rows",
        ),
        (
            "x.reshape(-1, accumulation_steps, *x.shape[1:]).swapaxes(0, 1)",
            "x.reshape(accumulation_steps, -1, *x.shape[1:])[::-1]",
        ),
        ("return total, (stats if", "return 2 * total, (stats if"),
        ("lambda x: x / scale, grads", "lambda x: x, grads"),
    ),
    *_of(
        "models/low_rank.py",
        "models/test_low_rank.py",
        ("return self.alpha / self.rank", "return self.alpha"),
        ('params["kernel"] + scale * (params[A] @ params[B])', 'params["kernel"]'),
        ("return y + low_rank.scale * ((x @ a) @ b)", "return y + (x @ a) @ b"),
    ),
    *_of(
        "training/schedules.py",
        "training/test_optimizers.py training/test_loop.py",
        (
            "optax.linear_schedule(0.0, config.peak_learning_rate, warmup)",
            "optax.constant_schedule(config.peak_learning_rate)",
        ),
        ("steps, alpha=config.final_fraction", "steps, alpha=0.0"),
        ("jnp.sqrt(first / jnp.maximum(step + warmup, first))", "jnp.sqrt(first / (first + 1))"),
        ("warm_up(step + 1), shape(step + 1 - warmup)", "warm_up(step), shape(step - warmup)"),
        ("stable = num_steps - config.warmup_steps - decay", "stable = num_steps - decay"),
    ),
    *_of(
        "training/loop.py",
        "training/test_loop.py runs golden",
        ("range(first, end)", "range(first + 1, end + 1)"),
        ("saves = saves or stop or", "saves = saves or"),
        ("ends.append((step // every + 1) * every)", "pass"),
        ("self._count + 1 if skipped else 0", "self._count + bool(skipped)"),
    ),
    *_of(
        "training/skipping.py",
        "training/test_skipping.py",
        (
            "~(jnp.isfinite(loss) & jnp.isfinite(norm))",
            "~(jnp.isfinite(loss) | jnp.isfinite(norm))",
        ),
        ("above * jnp.nanmedian(last)", "above * jnp.nanmean(last)"),
        ("jnp.append(values[1:],", "jnp.append(values[:-1],"),
    ),
    *_of(
        "training/checkpoints.py",
        "training/test_checkpoints.py runs",
        ("return sorted(self._manager.all_steps(), reverse=True)", "return []"),
        ("[min(scores, key=scores.__getitem__)]", "[max(scores, key=scores.__getitem__)]"),
    ),
    *_of(
        "runs/workdir.py",
        "runs launch",
        (
            'if before["fingerprint"] != now["fingerprint"]:',
            'if before["fingerprint"] is now["fingerprint"] is None:',
        ),
    ),
    *_of(
        "evaluation/loss_sums.py",
        "evaluation training/test_auxiliary_losses.py",
        ("counted = rows[2] > 0", "counted = rows[2] >= 0"),
        (
            "named[name] = (jnp.sum(values * weights), jnp.sum(weights))",
            "named[name] = (jnp.sum(values), jnp.sum(weights))",
        ),
        (
            "totals.get(name, np.zeros(2)) + np.array(pair, np.float64)",
            "np.array(pair, np.float64)",
        ),
        ("row += np.bincount(documents, column.astype(np.float64), num_documents)", "pass"),
    ),
    *_of(
        "evaluation/metrics.py",
        "evaluation objectives",
        ('"cross_entropy": nats / targets,', '"cross_entropy": nats / max(targets - 1, 1),'),
        ("bits = sums.nats / math.log(2)", "bits = sums.nats"),
        ("math.sqrt(n / (n - 1) * np.sum(residuals**2))", "math.sqrt(np.sum(residuals**2))"),
    ),
    *_of(
        "models/transformer/attention.py",
        "models/transformer",
        (
            "keys_bs[:, None, :] <= queries_bt[:, :, None]",
            "keys_bs[:, None, :] <= queries_bt[:, :, None] + 1",
        ),
        (
            "return queries_bt[:, :, None] == keys_bs[:, None, :]",
            "return queries_bt[:, :, None] >= keys_bs[:, None, :]",
        ),
        (
            "mask_bts = same_bts if mask_bts is None else mask_bts & same_bts",
            "mask_bts = same_bts if mask_bts is None else mask_bts | same_bts",
        ),
        ("near_bts = distance_bts < window", "near_bts = distance_bts <= window"),
    ),
    *_of(
        "models/transformer/experts.py",
        "models/transformer/test_experts.py parallel/test_mesh_experts.py",
        (
            "expert_m = jnp.where(is_here_m, expert_m, experts)",
            "expert_m = jnp.where(is_here_m, expert_m, 0)",
        ),
        (
            "share_lbe = load_lbe / (config.experts_per_token * tokens_b[:, None])",
            "share_lbe = load_lbe / tokens_b[:, None]",
        ),
        ("* routed.is_text_bt[..., None], axis=2)", ", axis=2)"),
    ),
    *_of(
        "models/transformer/grouped_product.py",
        "models/transformer/test_experts.py",
        (
            "jnp.arange(blocks.size) < blocks.end[index]",
            "jnp.arange(blocks.size) <= blocks.end[index]",
        ),
        ("(index - before_e[group]) * size", "index * size"),
    ),
    *_of(
        "models/transformer/rotary.py",
        "models/transformer parity/test_decoders.py",
        (
            "left * cos - right * sin, right * cos + left * sin",
            "left * cos - right * sin, right * cos",
        ),
        ("turns_i - low) / (high - low)", "turns_i - low) / high"),
        ("max(math.floor(pair(config.rotary_beta_fast)), 0)", "0"),
        ("config.rotary_attention_factor or default", "config.rotary_attention_factor or 1.0"),
    ),
    *_of(
        "models/transformer/layers.py",
        "models/transformer parity",
        ('NormOrder(before="norm", after="post_norm")', 'NormOrder(after="post_norm")'),
        ("normalize(split_heads(y_btd, width))", "split_heads(normalize(y_btd), width)"),
    ),
    *_of(
        "data/text/rows.py",
        "data/text evaluation",
        (
            "inputs, targets = tokens[:, :-1], tokens[:, 1:]",
            "inputs, targets = tokens[:, :-1], tokens[:, :-1]",
        ),
        (
            "skip = np.where(number == 0, 0, context_length - stride)",
            "skip = np.where(number == 0, 0, 0)",
        ),
        ('fill("positions", within)', 'fill("positions", where)'),
        ("np.repeat(number - firsts[rows.examples][row] + 1, length)", "1"),
    ),
    *_of(
        "data/text/packing.py",
        "data/text/test_packing.py",
        ("room = length + (fitting & -fitting)", "room = (fitting & -fitting)"),
        ("np.diff(documents.starts) - 1)", "np.diff(documents.starts))"),
        ("permutation(len(pieces.length))", "permutation(len(pieces.length)) * 0"),
    ),
    *_of(
        "data/batches.py",
        "data",
        ('batch["weights"][is_padding] = 0', "pass"),
        (
            "numbers = step * self.batch_size + slots\n        examples",
            "numbers = slots\n        examples",
        ),
        ("range(share.process * size, (share.process + 1) * size)", "range(0, size)"),
    ),
    *_of(
        "parallel/sharding.py",
        "parallel",
        ("return math.prod(mesh.shape[axis] for axis in DATA_AXES)", 'return mesh.shape["data"]'),
        ("return size % math.prod(mesh.shape[name] for name in names if name) == 0", "return True"),
        ("return shares.index(frozenset(parts_of[process])), len(shares)", "return 0, len(shares)"),
    ),
    *_of(
        "generation/beam_search.py",
        "generation/test_beam_search.py parity/test_beam_search.py",
        ("return base**self.search.length_penalty", "return base"),
        (
            "is_among_best_c = jnp.arange(stops_rc.shape[1]) < num_beams",
            "is_among_best_c = jnp.arange(stops_rc.shape[1]) >= 0",
        ),
        (
            "open_rc = jnp.where(found.is_end_rc, -jnp.inf, found.log_p_rc)",
            "open_rc = found.log_p_rc",
        ),
        ("carry = _reordered(carry, chosen.parents_rb)", "pass"),
        ("nothing_rb.at[:, 0].set(0),", "nothing_rb.at[:, :].set(0),"),
        ("generated_r = column + 1 - self.lengths_r", "generated_r = column - self.lengths_r"),
    ),
    *_of(
        "generation/sampling.py",
        "generation/test_sampling.py parity/test_sampling.py",
        (
            "jnp.where(logits < threshold, -jnp.inf, logits)",
            "jnp.where(logits <= threshold, -jnp.inf, logits)",
        ),
        (
            "before = jnp.cumsum(ordered, axis=-1) - ordered",
            "before = jnp.cumsum(ordered, axis=-1)",
        ),
        ("jnp.where(logits < 0, logits * penalty, logits / penalty)", "logits / penalty"),
        ("probabilities < p * probabilities.max(axis=-1, keepdims=True)", "probabilities < p"),
    ),
    *_of(
        "models/ngram/kneser_ney.py",
        "models/ngram evaluation/test_baselines.py",
        (
            "counts = np.where(extensions, extensions, counts)",
            "counts = np.where(extensions, counts, counts)",
        ),
        (
            "at = np.flatnonzero(context_lengths >= n - 1)",
            "at = np.flatnonzero(context_lengths >= n)",
        ),
    ),
    *_of(
        "costs/jaxpr_flops.py",
        "costs/test_jaxpr_flops.py costs/test_model_flops.py",
        ('return params["length"] * flops, results', "return flops, results"),
        ("return sum(flags[:2])", "return 2"),
    ),
    *_of(
        "costs/kernels.py",
        "costs/test_kernels.py",
        ("return flops // 2 if re.search", "return flops if re.search"),
        ("correction += (1 + is_scatter) * update", "correction += update"),
    ),
    *_of(
        "costs/timeline.py",
        "costs/test_timeline.py",
        ("now = max(now, end)", "now = end"),
        ("exposed += item.trips * body.exposed", "exposed += body.exposed"),
    ),
    *_of(
        "scaling_laws/compute_optimal.py",
        "scaling_laws launch/test_scaling_law.py",
        ("FLOPS_PER_PARAMETER_AND_TOKEN = 6", "FLOPS_PER_PARAMETER_AND_TOKEN = 2"),
        (
            "return beta / (alpha + beta), alpha / (alpha + beta)",
            "return alpha / (alpha + beta), beta / (alpha + beta)",
        ),
    ),
    *_of(
        "scaling_laws/laws.py",
        "scaling_laws",
        ("values[..., k] += values[..., slot[k]] * centre[term.variable]", "pass"),
        (
            "return alpha_d * jax.nn.logsumexp(jnp.stack(logs), axis=0)",
            "return jax.nn.logsumexp(jnp.stack(logs), axis=0)",
        ),
    ),
    *_of(
        "scaling_laws/log_log_regression.py",
        "scaling_laws",
        ("freedom = len(x) - 2", "freedom = len(x) - 1"),
    ),
    *_of(
        "trusted_code.py",
        "test_trusted_code.py",
        ("_named_by[text] = str(path)", "pass"),
        ("_named_by[absolute(text)] = str(path)", "pass"),
        ("    if is_trusted(code):", "    if code:"),
        ("for name in names if name not in _named_by", "for name in names"),
        ("if code in allowed]", "]"),
        ("if os.path.isabs(code) and not is_trusted(code)]", "]"),
    ),
    *_of(
        "code_names.py",
        "test_trusted_code.py",
        ("    spec = _find(module)\n", "    spec = importlib.util.find_spec(module)\n"),
        ("if package and places is None:", "if False:"),
    ),
    *_of(
        "choices.py",
        "test_trusted_code.py",
        ("trusted_code.check(name, field)", "pass"),
        ("(name, path, loader=loader)", "(name, path)"),
    ),
]
