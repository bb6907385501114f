"""The quality of translations: BLEU, chrF, and the share of exact matches."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lm_jax.errors import UserError
from lm_jax.evaluation.bleu_tokenizers import AUTO, bleu_tokenizer
from lm_jax.plurals import counted

_RESAMPLES = 1000
_NORMAL_95 = 1.959964  # half the width of a 95% interval, in standard errors


class _CorpusScore(NamedTuple):
    score: float
    half_width: float | None  # of the bootstrapped 95% interval; None for one sentence
    signature: str


def translation_measures(
    hypotheses: Sequence[str], references: Sequence[str], tokenizer: str = AUTO
) -> dict[str, Any]:
    """Returns the scores of translations against one reference each, all from 0 to 100.

    `bleu` (Papineni et al. 2002) and `chrf` (Popovic 2015: character 1-grams to 6-grams, beta 2)
    are sacrebleu's with its defaults, which the signatures name, but for BLEU's tokenizer;
    `bleu_remark` says so where the language of the references asks for one that is not installed.
    `exact_match` is the share of texts that equal their reference. Standard errors are over
    sentences: for BLEU and chrF half of the 95% interval of sacrebleu's bootstrap (Koehn 2004;
    1,000 resamples with a fixed seed), divided by 1.96. They are None for one sentence.

    Args:
      tokenizer: `auto`, which follows the language of the references, or a key of
        `lm_jax.evaluation.bleu_tokenizers.BLEU_TOKENIZERS`.

    Raises:
      UserError: sacrebleu or what the tokenizer needs is not installed, there are no sentences, or
        the numbers of hypotheses and references differ.
    """
    if not references or len(hypotheses) != len(references):
        raise UserError(
            f"{counted(len(hypotheses), 'translation')} and "
            f"{counted(len(references), 'reference')}; expected the same number of both, and at "
            "least one"
        )
    figures: dict[str, Any] = {}
    tokenizer, remark = bleu_tokenizer(tokenizer, references)
    if remark:
        figures["bleu_remark"] = remark
    for name, found in _corpus_scores(hypotheses, references, tokenizer).items():
        figures[name] = found.score
        error = None if found.half_width is None else found.half_width / _NORMAL_95
        figures[f"{name}_standard_error"] = error
        figures[f"{name}_signature"] = found.signature
    return figures | exact_matches(hypotheses, references)


def exact_matches(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """Returns the share of texts that equal their reference, as in `translation_measures`."""
    is_right = np.array([a == b for a, b in zip(hypotheses, references, strict=True)])
    count = len(is_right)
    error = 100 * float(is_right.std(ddof=1)) / count**0.5 if count > 1 else None
    return {
        "sentences": count,
        "exact_match": 100 * float(is_right.mean()),
        "exact_match_standard_error": error,
    }


def _corpus_scores(
    hypotheses: Sequence[str], references: Sequence[str], tokenizer: str
) -> Mapping[str, _CorpusScore]:
    """Returns sacrebleu's scores by the names `bleu` and `chrf`."""
    from sacrebleu.metrics import BLEU, CHRF
    from sacrebleu.significance import PairedTest

    metrics = {"bleu": BLEU(tokenize=tokenizer), "chrf": CHRF()}
    if len(references) == 1:  # nothing to resample
        scores = {n: m.corpus_score(hypotheses, [references]) for n, m in metrics.items()}
        return {
            name: _CorpusScore(score.score, None, str(metrics[name].get_signature()))
            for name, score in scores.items()
        }
    # A paired test of one system only resamples it. `corpus_score(n_bootstrap=...)` of sacrebleu
    # 2.6 fails where some resamples have no match: it averages Python's and NumPy's floats.
    test = PairedTest(
        [("lm_jax", hypotheses)], metrics, [references], test_type="bs", n_samples=_RESAMPLES
    )
    signatures, results = test()
    found = {}
    for name, key in zip(metrics, signatures, strict=True):
        result: Any = results[key][0]
        found[name] = _CorpusScore(result.score, float(result.ci), str(signatures[key]))
    return found
