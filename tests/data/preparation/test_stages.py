"""What each stage drops, cuts and keeps."""

import gzip
import json
import random

import pytest
from datatrove.data import Document
from datatrove.pipeline.filters.fineweb_quality_filter import FineWebQualityFilter

from lm_jax.data.preparation.config import (
    DecontaminationConfig,
    JapaneseQualityConfig,
    NearDuplicatesConfig,
    PreparationConfig,
)
from lm_jax.data.preparation.duplicates import add_near_duplicates
from lm_jax.data.preparation.executors import EXECUTORS
from lm_jax.data.preparation.japanese_quality import fault_of, repeated_ngrams
from lm_jax.data.preparation.language import pieces_of
from lm_jax.data.preparation.prepare import prepare
from lm_jax.data.preparation.quality import UnwrappedFineWebFilter
from lm_jax.data.preparation.stages import STAGES
from lm_jax.data.preparation.words import WORDS
from lm_jax.errors import UserError
from tests.data.preparation.corpora import JAPANESE, changed, prose, write_jsonl


def kept(directory, texts, **fields):
    """Returns the texts that are left, in their order, and the statistics."""
    write_jsonl(directory / "raw.jsonl", texts)
    output = directory / "corpus"
    config = PreparationConfig(path=str(directory / "raw.jsonl"), tasks=2, **fields)
    prepare(config, output, 1, lambda *_: None)
    rows = [
        json.loads(line)
        for path in (output / "documents").iterdir()
        for line in gzip.open(path, "rt")
    ]
    rows.sort(key=lambda row: int(row["id"].rpartition(":")[2]))
    return [row["text"] for row in rows], json.loads((output / "statistics.json").read_text())


@pytest.mark.parametrize(
    ("choice", "texts", "counted"),
    [
        ("skip", ["good"], "documents that are not UTF-8"),
        ("replace", ["good", "b\ufffdd"], "bytes that are not UTF-8, replaced by U+FFFD"),
    ],
)
def test_what_is_not_utf_8_is_counted_once(tmp_path, choice, texts, counted):
    """Both tasks read the file."""
    raw = tmp_path / "raw.jsonl"
    raw.write_bytes(b'{"text": "good"}\n{"text": "b\xffd"}\n')
    config = PreparationConfig(path=str(raw), tasks=2, stages="redaction", invalid_utf8=choice)
    seen = {}
    prepare(config, tmp_path / "corpus", 1, lambda statistics, *_: seen.update(statistics))
    assert seen["left_out"] == {counted: 1}
    assert seen["stages"][0]["documents"] == len(texts)


def test_near_duplicates_leave_one_of_each_cluster(tmp_path):
    rng = random.Random(1)
    originals = [prose(rng, 20) for _ in range(10)]
    copies = [changed(rng, text, 0.02) for text in originals for _ in range(2)]
    texts, statistics = kept(tmp_path, [*originals, *copies], stages="near_duplicates")
    assert len(texts) == 10
    assert {text[:60] for text in texts} <= {text[:60] for text in [*originals, *copies]}
    assert statistics["clusters"]["sizes"] == {"3": 10}
    cluster = statistics["clusters"]["examples"][0]
    assert len(cluster) == 3
    assert len({member["minhash_cluster_id"] for member in cluster}) == 1


def test_a_corpus_without_duplicates_stays_as_it_is(tmp_path):
    texts = [prose(random.Random(seed)) for seed in range(3)]
    found, statistics = kept(
        tmp_path,
        texts,
        stages="exact_duplicates, near_duplicates, repeated_lines, redaction",
        near_duplicates=NearDuplicatesConfig(bands=2),
    )
    assert found == texts
    assert not statistics["rules"]
    assert statistics["clusters"] == {"sizes": {}, "examples": []}


def test_lines_of_an_earlier_document_are_cut(tmp_path):
    rng = random.Random(2)
    licence = "\n".join(prose(rng, 1) for _ in range(3))
    first, second = (f"NAME\n\n{prose(rng)}\n{licence}\n{prose(rng)}\n\nSYNOPSIS" for _ in range(2))
    texts, statistics = kept(tmp_path, [first, second, licence], stages="repeated_lines")
    assert texts == [first, second.replace(f"{licence}\n", "")]
    rules = {rule["rule"]: rule for rule in statistics["rules"]}
    assert rules["repeated_lines: cut, the rest stays"]["documents"] == 1
    assert rules["repeated_lines: cut, the rest stays"]["characters"] == len(licence) + 1
    assert rules["repeated_lines: little left"]["documents"] == 1


def test_documents_with_an_ngram_of_an_evaluation_set_are_dropped(tmp_path):
    rng = random.Random(3)
    texts = [prose(rng) for _ in range(4)]
    words = prose(rng, 3).split()
    question, shorter = " ".join(words[:13]), " ".join(words[20:32])
    write_jsonl(tmp_path / "exam.jsonl", [question, shorter])
    texts[1] += f" {question.upper()}!"
    texts[2] += f" {shorter} and more"
    config = DecontaminationConfig(paths=str(tmp_path / "exam.jsonl"))
    found, statistics = kept(
        tmp_path, texts, stages="decontamination, redaction", decontamination=config
    )
    assert found == [texts[0], *texts[2:]]
    (rule,) = statistics["rules"]
    assert rule["documents"] == 1
    assert rule["examples"][0]["contaminated_task"] == "0_exam"


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ("", "decontamination.paths names no evaluation set"),
        ("none.jsonl", "no file matches decontamination.paths 'none.jsonl'"),
        ("{tmp}/short.jsonl", "no text of .*short.jsonl has 13 words"),
    ],
)
def test_an_evaluation_set_that_cannot_be_used_is_refused(tmp_path, paths, message):
    write_jsonl(tmp_path / "short.jsonl", ["too short"])
    config = DecontaminationConfig(paths=paths.format(tmp=tmp_path))
    with pytest.raises(UserError, match=message):
        kept(tmp_path, ["a text"], stages="decontamination", decontamination=config)


def test_another_language_is_dropped(tmp_path):
    rng = random.Random(4)
    english, other = prose(rng), JAPANESE
    texts, statistics = kept(tmp_path, [english, other], stages="language", language="ja")
    assert texts == [other]
    assert statistics["languages"] == {"en": 1, "ja": 1}


def test_pieces_are_the_whole_of_a_short_text_and_span_a_long_one():
    assert pieces_of("short", 30) == "short"
    assert pieces_of("a" * 100 + "b" * 100 + "c" * 100, 30) == "\n".join(
        letter * 10 for letter in "abc"
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "short"),
        ("{good}", None),
        ("{good}" + "int main(void) return 0; " * 60, "little Japanese"),
        ("漢字漢語。" * 3 + "日本国憲法前文第一条" * 60, "little hiragana"),
        ("{good}" + "コンピューターネットワーク。" * 42, "much katakana"),
        ("{good}" + "とても長い文" * 40 + "。", "a long sentence"),
        ("\n".join(["そうです。"] * 100), "short sentences"),
        ("{good}\n" + "{good}", "repeated lines"),
        (JAPANESE.replace("。", "…。").replace("。", ""), "ellipses"),
    ],
)
def test_rules_of_japanese(text, fault):
    assert fault_of(text.replace("{good}", JAPANESE), JapaneseQualityConfig()) == fault


def test_shares_of_ngrams_are_those_of_counting():
    text = "".join(random.Random(6).choices("あいうえおかき", k=400))
    top, repeated = repeated_ngrams(text)
    for n in range(2, 11):
        grams = [text[i : i + n] for i in range(len(text) - n + 1)]
        counts = {gram: grams.count(gram) for gram in grams}
        if n < 5:
            assert top[n] == pytest.approx(max(counts.values()) / len(grams))
        else:
            expected = sum(count > 1 for count in counts.values()) / len(counts)
            assert repeated[n] == pytest.approx(expected)


def test_wrapped_lines_are_judged_as_paragraphs():
    words = prose(random.Random(7)).lower().split()
    lines = [" ".join(words[n : n + 8]) for n in range(0, len(words), 8)]
    wrapped = Document("\n".join(line.replace(".", "") for line in lines) + ".", "wrapped")
    plain, ours = (
        kind(language=WORDS["en"]) for kind in (FineWebQualityFilter, UnwrappedFineWebFilter)
    )
    assert plain.filter(wrapped) == (False, "line_punct_ratio")
    assert ours.filter(wrapped) is True


def test_words_of_japanese_are_runs_of_a_script():
    words = WORDS["ja"].word_tokenize("GPT-4は東京タワーを 見たのです。")
    assert words == ["GPT", "-", "4", "は", "東京", "タワー", "を", "見", "たのです", "。"]
    assert WORDS["ja"].sent_tokenize("はい。いいえ！ そう") == ["はい。", "いいえ！", "そう"]


def test_stages_and_executors_have_names():
    assert STAGES["near_duplicates"] is add_near_duplicates
    assert EXECUTORS.keys() == {"local", "slurm", "ray"}
