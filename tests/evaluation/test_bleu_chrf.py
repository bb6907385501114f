import numpy as np
import pytest
import sacrebleu

from lm_jax.evaluation.bleu_chrf import translation_measures

RNG = np.random.default_rng(0)
WORDS = "the cat sat on a mat and looked at two dogs in red houses".split()
REFERENCES = [" ".join(RNG.choice(WORDS, size=8)) for _ in range(80)]
HYPOTHESES = [
    " ".join(w if RNG.random() < 0.85 else str(RNG.choice(WORDS)) for w in text.split())
    for text in REFERENCES
]


def test_figures_equal_sacrebleus():
    found = translation_measures(HYPOTHESES, REFERENCES)
    bleu = sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES])
    chrf = sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES])
    assert found["bleu"] == pytest.approx(bleu.score) and 20 < found["bleu"] < 90
    assert found["chrf"] == pytest.approx(chrf.score)
    assert "tok:13a" in found["bleu_signature"] and "nc:6" in found["chrf_signature"]
    right = [a == b for a, b in zip(HYPOTHESES, REFERENCES, strict=True)]
    assert found["exact_match"] == pytest.approx(100 * np.mean(right))
    assert found["sentences"] == 80


def test_standard_errors_are_those_of_resampled_sentences():
    found = translation_measures(HYPOTHESES, REFERENCES)
    rng, scores = np.random.default_rng(1), []
    for _ in range(400):
        chosen = rng.integers(80, size=80)
        texts = [[side[i] for i in chosen] for side in (HYPOTHESES, REFERENCES)]
        scores.append((sacrebleu.corpus_bleu(texts[0], [texts[1]]).score,
                       sacrebleu.corpus_chrf(texts[0], [texts[1]]).score))  # fmt: skip
    for name, deviation in zip(("bleu", "chrf"), np.std(scores, axis=0), strict=True):
        assert found[f"{name}_standard_error"] == pytest.approx(deviation, rel=0.2)


def test_perfect_translations_and_one_sentence():
    found = translation_measures(REFERENCES, REFERENCES)
    assert found["bleu"] == pytest.approx(100) and found["exact_match"] == 100
    assert found["bleu_standard_error"] == pytest.approx(0, abs=1e-6)
    assert translation_measures(["a b c d"], ["a b c d"])["bleu_standard_error"] is None


def test_resamples_without_a_match_have_a_score_too():
    found = translation_measures(["x"] * 11 + ["a b c d e"], ["a b c d e"] * 12)
    assert found["bleu"] > 0 and found["bleu_standard_error"] > 0


@pytest.mark.parametrize(("hypotheses", "references"), [([], []), (["a"], []), (["a"], ["a", "b"])])
def test_unequal_or_empty_lists_are_refused(hypotheses, references):
    with pytest.raises(ValueError, match="expected the same number of both"):
        translation_measures(hypotheses, references)
