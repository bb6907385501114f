import json

import numpy as np
import pytest

from lm_jax.data import ParallelTextConfig, TokenizerConfig, prepare, texts_of
from lm_jax.data.seq2seq.config import SymbolsConfig
from lm_jax.data.seq2seq.near_duplicates import near_duplicates, normalise
from lm_jax.data.seq2seq.readers import read_files
from lm_jax.errors import UserError

BYTES = TokenizerConfig("byte")
WORDS = "apple river stone cloud tiger paper green silver window garden music orange".split()


def sentences(count, seed=0):
    """Pairs of unlike sentences with their documents."""
    rng = np.random.default_rng(seed)
    return [
        (
            " ".join(rng.permutation(WORDS)[:7]) + f" {chr(97 + n % 26) * 3}",
            " ".join(rng.permutation(WORDS)[:7]).upper() + f" {chr(97 + n // 26 % 26) * 3}",
            f"document {n % 30}",
        )
        for n in range(count)
    ]


PAIRS = sentences(300)


def tabs(directory, rows=PAIRS, name="pairs.tsv"):
    path = directory / name
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def config(path, **fields):
    return ParallelTextConfig(**({"path": path, "tokenizer": BYTES} | fields))


def pairs_of(found, split):
    part = getattr(found, split)
    return list(
        zip(*(texts_of(found.tokenizer, side) for side in (part.source, part.target)), strict=True)
    )


def test_every_kind_of_file_holds_the_same(tmp_path):
    rows = [row[:2] for row in PAIRS]
    one = prepare(config(tabs(tmp_path, rows)))
    (tmp_path / "en.txt").write_text("\r\n".join(source for source, _ in rows))
    (tmp_path / "de.txt").write_text("\ufeff" + "".join(f"{target}\n" for _, target in rows))
    (tmp_path / "pairs.jsonl").write_text(
        "".join(json.dumps({"source": s, "target": t}) + "\n" for s, t in rows)
    )
    (tmp_path / "pairs.po").write_text(
        'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n\n'
        '#, fuzzy\nmsgid "unsure"\nmsgstr "unsicher"\n\n'
        'msgid "not translated"\nmsgstr ""\n\n'
        + "".join(f'msgid "{s}"\nmsgstr "{t}"\n\n' for s, t in rows[:-1])
        + f'msgid "{rows[-1][0]}"\nmsgid_plural "many"\n'
        + f'msgstr[0] "{rows[-1][1]}"\nmsgstr[1] "viele"\n\n'
        + '#~ msgid "obsolete"\n#~ msgstr "veraltet"\n'
    )
    others = [
        config(str(tmp_path / "en.txt"), target_path=str(tmp_path / "de.txt")),
        config(str(tmp_path / "pairs.jsonl")),
        config(str(tmp_path / "pairs.po")),
    ]
    for other in others:
        found = prepare(other).description
        assert found["fingerprint"] == one.description["fingerprint"]
    untold = {"fuzzy messages": 1, "obsolete messages": 1, "untranslated messages": 1}
    assert found["left_out"] == untold | {"blank documents": 0}  # of the catalogue
    assert "not read: 1 fuzzy message, " in found["summary"]
    assert sorted(pairs_of(one, "train") + pairs_of(one, "validation")) == sorted(rows)


def test_whole_documents_are_held_out(tmp_path):
    found = prepare(config(tabs(tmp_path)))
    document = {row[:2]: row[2] for row in PAIRS}
    train, held_out = (
        {document[pair] for pair in pairs_of(found, split)} for split in ("train", "validation")
    )
    assert train and held_out and not train & held_out
    assert found.description["validation"]["documents"] == len(held_out)


def test_repeated_long_and_unequal_pairs_are_counted_and_left_out(tmp_path):
    rows = PAIRS + PAIRS[:20] + [("x" * 400, "y" * 400, "d"), ("a" * 10, "b" * 90, "d")]
    found = prepare(config(tabs(tmp_path, rows), longest_characters=300, largest_length_ratio=3.0))
    dropped = {"repeated": 20, "too long": 1, "unequal in length": 1, "near duplicates": 0}
    assert found.description["dropped"] == dropped
    assert (
        "20 repeated, 1 too long (data.longest_characters), "
        "1 unequal in length (data.largest_length_ratio), 0 near duplicates"
    ) in found.description["summary"]
    assert len(pairs_of(found, "train")) + len(pairs_of(found, "validation")) == 300


def test_near_duplicates_of_training_sentences_are_not_held_out(tmp_path):
    original = prepare(config(tabs(tmp_path)))
    (source, target), (other, _) = pairs_of(original, "train")[:2]
    held_document = next(row[2] for row in PAIRS if row[:2] == pairs_of(original, "validation")[0])
    copies = [
        (source.upper() + "!", "an entirely different translation of it", held_document),
        ("nothing that was ever trained on, one", target.lower() + ".", held_document),
        (other + " x", "yet another translation, unlike any", held_document),
    ]
    found = prepare(config(tabs(tmp_path, [*PAIRS, *copies])))
    assert found.description["dropped"]["near duplicates"] == 3
    assert "3 near duplicates (data.drop_near_copies)" in found.description["summary"]
    assert pairs_of(found, "validation") == pairs_of(original, "validation")
    kept = prepare(config(tabs(tmp_path, [*PAIRS, *copies]), drop_near_copies=False))
    assert set(pairs_of(kept, "validation")) > {(s, t) for s, t, _ in copies}


def test_a_held_out_file_stays_whole_and_is_not_trained_on(tmp_path):
    held = [(PAIRS[0][0] + ".", "unlike any translation", "d"), ("something new", "neu", "d")]
    found = prepare(config(tabs(tmp_path), validation_path=tabs(tmp_path, held, "held.tsv")))
    assert pairs_of(found, "validation") == [row[:2] for row in held]
    assert PAIRS[0][:2] not in pairs_of(found, "train")
    assert len(pairs_of(found, "train")) == 299


def test_near_duplicates_are_those_that_comparing_all_finds():
    rng = np.random.default_rng(0)
    train = [" ".join(rng.choice(WORDS, 6)) for _ in range(300)] + ["", "Ab", "12 3"]
    held_out = [
        "".join(c for c in text if rng.random() > rate)
        for text, rate in zip(train, rng.uniform(0, 0.2, len(train)), strict=True)
    ] + ["a-B!", "45 6", "--"]

    def grams(text):
        text = normalise(text)
        return {text[i : i + 4] for i in range(max(len(text) - 3, 1))}

    similar = np.array(
        [
            [len(grams(a) & grams(b)) >= 0.7 * len(grams(a) | grams(b)) for b in train]
            for a in held_out
        ]
    )
    assert 50 < similar.any(axis=1).sum() < 290
    in_train, in_held = near_duplicates(held_out, train)
    np.testing.assert_array_equal(in_train, similar.any(axis=1))
    np.testing.assert_array_equal(in_held, similar.any(axis=0))
    assert in_train[-3:].all()  # equal once normalised


def test_tasks_tell_their_instruction_and_share_a_vocabulary(tmp_path):
    labels = [(source, ("good", "bad")[n % 2]) for n, (source, _, _) in enumerate(PAIRS)]
    one, other = tabs(tmp_path), tabs(tmp_path, labels, "labels.tsv")
    tasks = f"translate: = {one}; judge: ={other}"
    found = prepare(config("", tasks=tasks))
    assert found.description["tasks"] == {"translate:": one, "judge:": other}
    assert found.train.instructions == ["translate:", "judge:"]
    for split in (found.train, found.validation):
        sources = texts_of(found.tokenizer, split.source)
        assert set(split.tasks) == {0, 1}
        for task, source in zip(split.tasks, sources, strict=True):
            assert source.startswith(("translate: ", "judge: ")[task])


@pytest.mark.parametrize("task", ["copy", "reverse", "sort"])
def test_symbols_are_copied_reversed_or_sorted(task):
    symbols = SymbolsConfig(
        num_symbols=40, num_training_pairs=500, num_validation_pairs=100, longest=8,
        validation_shortest=6, validation_longest=15,
    )  # fmt: skip
    whole = {"source": task, "symbols": symbols, "tokenizer": TokenizerConfig("whitespace", 100)}
    found = prepare(ParallelTextConfig(**whole))
    assert found.tokenizer.vocab_size == 42
    result = {"copy": list, "reverse": lambda s: s[::-1], "sort": sorted}[task]
    train, held_out = pairs_of(found, "train"), pairs_of(found, "validation")
    for source, target in train + held_out:
        assert target.split() == result(source.split())
    lengths = [{len(source.split()) for source, _ in part} for part in (train, held_out)]
    assert lengths == [set(range(1, 9)), set(range(6, 16))]
    assert not {s for s, _ in train} & {s for s, _ in held_out}
    again = prepare(ParallelTextConfig(**whole))
    assert again.description["fingerprint"] == found.description["fingerprint"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("one\teins\nno tab\n", r"pairs.tsv:2: 'no tab' is not source<TAB>target"),
        ("one\teins\n\ntwo\tzwei\n", "pairs.tsv:2: is empty"),
        ("one\t \n", "pairs.tsv:1"),
        ("one\teins\td\tmore\n", "pairs.tsv:1"),
        ("one\teins\n", "no pair is left"),
    ],
)
def test_lines_that_are_no_pairs_are_refused(tmp_path, lines, message):
    path = tmp_path / "pairs.tsv"
    path.write_text(lines)
    with pytest.raises(UserError, match=message):
        prepare(config(str(path)))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("eins\n", "en.txt has 2 lines and .*de.txt 1; line n of one is the translation"),
        ("eins\n\n", "de.txt:2 is empty; remove line 2 of both files"),
    ],
)
def test_files_that_are_not_aligned_are_refused(tmp_path, targets, message):
    (tmp_path / "en.txt").write_text("one\ntwo\n")
    (tmp_path / "de.txt").write_text(targets)
    with pytest.raises(UserError, match=message):
        prepare(config(str(tmp_path / "en.txt"), target_path=str(tmp_path / "de.txt")))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": ""}, "needs either data.path or data.tasks"),
        ({"source": "copy"}, "makes its pairs"),
        ({"source": "sorted"}, "data.source is 'sorted'"),
        ({"tasks": "a=b"}, "needs either"),
        ({"path": "", "tasks": "a"}, r"data.tasks holds 'a'; expected"),
        ({"path": "", "tasks": "a=b;a=c"}, "gives the instruction 'a' twice"),
        ({"path": "", "tasks": "a=b", "target_path": "c"}, "held out by a hash"),
        ({"validation_target_path": "c"}, "no data.validation_path"),
        ({"longest_characters": -1}, "data.longest_characters is -1"),
        ({"source": "copy", "path": "", "symbols": SymbolsConfig(longest=0)}, "longest is 0"),
        ({"source": "copy", "path": "", "symbols": SymbolsConfig(shortest=30)}, "is longer than"),
        (
            {"source": "copy", "path": "", "symbols": SymbolsConfig(num_symbols=1, longest=2)},
            "training holds every sequence of 1 symbols",
        ),
    ],
)
def test_impossible_configurations_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        prepare(config("nowhere.tsv", **fields) if "path" not in fields else config(**fields))


def test_a_second_preparation_reads_the_cache(tmp_path, monkeypatch):
    first = prepare(config(tabs(tmp_path)))
    monkeypatch.setattr("lm_jax.data.pipeline.train_tokenizer", None)
    second = prepare(config(tabs(tmp_path)))
    assert second.description == first.description
    for split in ("train", "validation"):
        assert pairs_of(second, split) == pairs_of(first, split)
        assert getattr(second, split).origins == getattr(first, split).origins
    with pytest.raises(TypeError):  # other choices are other data
        prepare(config(tabs(tmp_path), drop_near_copies=False))


def test_a_catalogue_is_one_document_however_its_path_is_given(tmp_path, monkeypatch):
    for name in ("a", "b"):
        rows = sentences(40, seed=ord(name))
        entries = "".join(f'msgid "{s}"\nmsgstr "{t}"\n\n' for s, t, _ in rows)
        (tmp_path / f"{name}.po").write_text(
            'msgid ""\nmsgstr "Content-Type: charset=UTF-8\\n"\n\n' + entries
        )
    whole = [pair.document for pair in read_files(config(str(tmp_path))).train]
    monkeypatch.chdir(tmp_path)
    assert [pair.document for pair in read_files(config(".")).train] == whole
    assert len(set(whole)) == 2


def test_a_catalogue_that_holds_a_path_does_not_lead_there(tmp_path):
    (tmp_path / "secret").write_text('msgid "a"\nmsgstr "b"\n')
    (tmp_path / "pairs.po").write_text(str(tmp_path / "secret"))  # polib takes both for its text
    with pytest.raises(UserError, match="pairs.po is no gettext catalogue"):
        read_files(config(str(tmp_path / "pairs.po")))


def test_values_of_jsonl_that_are_no_text_are_refused(tmp_path):
    for line in ('{"source": null, "target": "x"}', "[" * 100_000):
        (tmp_path / "pairs.jsonl").write_text(f"{line}\n")
        with pytest.raises(UserError, match=r"pairs.jsonl:1: .*(source is null|no JSON object)"):
            prepare(config(str(tmp_path / "pairs.jsonl")))


def test_texts_stay_as_they_were_where_tokens_do_not(tmp_path):
    found = prepare(config(tabs(tmp_path), tokenizer=TokenizerConfig("word", 20, lowercase=True)))
    told = {row[:2] for row in PAIRS}
    assert set(found.validation.texts) <= told and not set(pairs_of(found, "validation")) <= told
