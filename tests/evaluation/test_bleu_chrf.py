import numpy as np
import pytest
import sacrebleu

from lm_jax.errors import UserError
from lm_jax.evaluation import bleu_tokenizers
from lm_jax.evaluation.bleu_chrf import exact_matches, translation_measures
from lm_jax.evaluation.bleu_tokenizers import BLEU_TOKENIZERS, bleu_tokenizer

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
    for _ in range(100):  # which know the deviation to 7%
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
    with pytest.raises(UserError, match="expected the same number of both"):
        translation_measures(hypotheses, references)


JAPANESE = ["猫が窓のそばで静かに眠っています。", "今日は東京で友達と映画を見ました。"]
KOREAN = ["고양이가 창가에서 조용히 자고 있다.", "오늘은 친구와 영화를 보았다."]
CHINESE = ["猫在窗边安静地睡觉。", "今天我和朋友在东京看了电影。"]


@pytest.mark.parametrize(
    ("references", "usual", "here"),
    [
        (REFERENCES, "13a", "13a"),
        (["Grüße aus Köln", "Привет, мир", "Γειά σου"], "13a", "13a"),
        (CHINESE, "zh", "zh"),
        (JAPANESE, "ja-mecab", "char"),
        (KOREAN, "ko-mecab", "char"),
        (["แมวนอนหลับอยู่ข้างหน้าต่าง"], "char", "char"),
        (["a model called 猫"], "13a", "13a"),
        (["123 + 4"], "13a", "13a"),
    ],
)
def test_the_tokenizer_of_bleu_follows_the_language_of_the_references(
    references, usual, here, monkeypatch
):
    monkeypatch.setattr(bleu_tokenizers, "_is_installed", lambda name: True)
    assert bleu_tokenizer("auto", references) == (usual, "")
    monkeypatch.setattr(
        bleu_tokenizers, "_is_installed", lambda name: not BLEU_TOKENIZERS[name].modules
    )
    found, remark = bleu_tokenizer("auto", references)
    assert found == here and (usual in remark) == (usual != here)


@pytest.mark.parametrize("name", ["char", "zh", "intl", "none"])
def test_a_named_tokenizer_is_sacrebleus_and_stands_in_the_signature(name):
    hypotheses = [text[:-4] + text[-2:] for text in CHINESE]
    found = translation_measures(hypotheses, CHINESE, name)
    expected = sacrebleu.corpus_bleu(hypotheses, [CHINESE], tokenize=name)
    assert found["bleu"] == pytest.approx(expected.score)
    assert f"tok:{name}|" in found["bleu_signature"] and "bleu_remark" not in found


def test_japanese_without_mecab_is_scored_by_characters_and_says_so(monkeypatch):
    monkeypatch.setattr(bleu_tokenizers, "_is_installed", lambda name: name != "ja-mecab")
    hypotheses = [text.replace("静か", "穏やか") for text in JAPANESE]
    found = translation_measures(hypotheses, JAPANESE)
    assert 60 < found["bleu"] < 100 and "tok:char|" in found["bleu_signature"]
    assert "the references are Japanese" in found["bleu_remark"]
    assert translation_measures(hypotheses, JAPANESE, "13a")["bleu"] != found["bleu"]
    with pytest.raises(UserError, match="ja-mecab needs MeCab and ipadic; pip install -e"):
        translation_measures(hypotheses, JAPANESE, "ja-mecab")


def test_other_tokenizers_are_those_that_sacrebleu_has():
    assert set(BLEU_TOKENIZERS) <= set(sacrebleu.BLEU.TOKENIZERS)
    with pytest.raises(UserError, match="is '14a'; expected one of auto, 13a"):
        bleu_tokenizer("14a", REFERENCES)


def test_exact_matches_need_no_sacrebleu():
    found = exact_matches(["a b", "c", "d", "e"], ["a b", "c", "d", "x"])
    assert found["exact_match"] == 75.0 and found["sentences"] == 4
    assert found["exact_match_standard_error"] == pytest.approx(25.0)  # 100 sqrt(3/16 * 4/3 / 4)
    assert exact_matches(["a"], ["b"])["exact_match_standard_error"] is None
