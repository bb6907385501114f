"""How good translations are: BLEU, chrF, and how many are right to the letter."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lm_jax.errors import UserError

_RESAMPLES = 1000
_NORMAL_95 = 1.959964  # half a 95% interval over the standard error


def _metrics() -> tuple[Any, Any]:
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError:
        raise UserError("BLEU and chrF need sacrebleu; pip install -e '.[eval]'") from None
    return BLEU, CHRF


def _in_floats(metric: Any) -> Any:
    """A metric whose resampled scores are floats, of which sacrebleu then takes the mean.

    Left alone (2.6), those without any match are floats and the others NumPy's float32, which
    `statistics.mean` does not add.
    """
    compute = metric._compute_score_from_stats

    def computed(stats: Any) -> Any:
        score = compute(stats)
        score.score = float(score.score)
        return score

    metric._compute_score_from_stats = computed
    return metric


def translation_measures(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """The figures of translations, all from 0 to 100, against one reference each.

    `bleu` (Papineni et al. 2002) and `chrf` (Popovic 2015: characters, up to 6, beta 2) are
    sacrebleu's with its defaults, which the signatures name; `exact_match` is the share of texts
    that equal their reference. Standard errors are over sentences: for BLEU and chrF by sacrebleu's
    bootstrap (Koehn 2004), 1,000 resamples with a fixed seed, as half its 95% interval over 1.96;
    null for one sentence.

    Raises:
      UserError: there is nothing to compare, or not as many of both.
    """
    BLEU, CHRF = _metrics()
    if not references or len(hypotheses) != len(references):
        raise UserError(
            f"{len(hypotheses):,} translations and {len(references):,} references; expected as "
            "many of both, and at least one"
        )
    count = len(references)
    figures: dict[str, Any] = {"sentences": count}
    for name, metric in (("bleu", _in_floats(BLEU())), ("chrf", _in_floats(CHRF()))):
        resamples = _RESAMPLES if count > 1 else 1
        score = metric.corpus_score(list(hypotheses), [list(references)], n_bootstrap=resamples)
        figures[name] = score.score
        figures[f"{name}_standard_error"] = float(score._ci) / _NORMAL_95 if count > 1 else None
        figures[f"{name}_signature"] = str(metric.get_signature())
    is_right = np.array([a == b for a, b in zip(hypotheses, references, strict=True)])
    figures["exact_match"] = 100 * float(is_right.mean())
    error = 100 * float(is_right.std(ddof=1)) / count**0.5 if count > 1 else None
    return figures | {"exact_match_standard_error": error}
