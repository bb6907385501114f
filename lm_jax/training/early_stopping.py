"""When a run ends early: a pure function of its validation cross-entropies."""

from collections.abc import Mapping

from lm_jax.plurals import counted


def ended_early(cross_entropies: Mapping[int, float], patience: int, num_steps: int) -> str:
    """Returns why a run ends before `num_steps`; "" while it goes on.

    Args:
      cross_entropies: of the validation split, by the step of each evaluation so far.
      patience: evaluations since the lowest after which it ends; 0: it does not.
    """
    if not patience or not cross_entropies:
        return ""
    best = min(cross_entropies, key=lambda step: (cross_entropies[step], step))
    since = sum(step > best for step in cross_entropies)
    if since < patience or max(cross_entropies) >= num_steps:
        return ""
    return (
        f"ended by training.stop_after_no_improvement: the validation cross-entropy of step {best} "
        f"({cross_entropies[best]:.4f} nats) is the lowest, and {counted(since, 'evaluation')} "
        "followed it"
    )
