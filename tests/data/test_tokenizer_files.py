"""Tokenizers of others, against the encoders of the packages that made them."""

import base64
import io
import json

import numpy as np
import pytest
import sentencepiece
import tiktoken
import tokenizers
from hypothesis import given, settings
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from lm_jax.data import DataConfig, TokenizerConfig, load_tokenizer, token_stream, tokenize
from lm_jax.data.embedded import python_reference
from lm_jax.data.token_offsets import token_offsets
from lm_jax.data.tokenizer_files import _GPT2_PATTERN
from lm_jax.data.tokenizers import identity, train_tokenizer
from lm_jax.data.word_boundaries import word_boundaries
from lm_jax.errors import UserError
from tests.data.test_tokenizers import ANY_TEXT

TEXTS = [*python_reference()[:8], "日本語 と русский\n", "🙂 no  end of spaces    ", ""]
END = "<|endoftext|>"


def byte_level():
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return tokenizer, trainers.BpeTrainer(
        vocab_size=500, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )


def word_piece():
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[UNK]", "[SEP]"]
    return tokenizer, trainers.WordPieceTrainer(
        vocab_size=500, special_tokens=special, show_progress=False
    )


def metaspace():
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer, trainers.UnigramTrainer(
        vocab_size=500, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )


MAKERS = {"byte_level": byte_level, "word_piece": word_piece, "metaspace": metaspace}
ENDS = {"byte_level": END, "word_piece": "[SEP]", "metaspace": "</s>"}


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """Directories as Hugging Face has them, with what users forget to turn off turned on."""
    found = {}
    for name, make in MAKERS.items():
        tokenizer, trainer = make()
        tokenizer.train_from_iterator(TEXTS, trainer)
        tokenizer.enable_truncation(5)
        tokenizer.enable_padding(length=7)
        found[name] = tmp_path_factory.mktemp(name)
        tokenizer.save(str(found[name] / "tokenizer.json"))
    names = {"eos_token": {"content": "[SEP]", "special": True}}
    (found["word_piece"] / "tokenizer_config.json").write_text(json.dumps(names))
    return found


@pytest.fixture(scope="module")
def ranks():
    """A file of tiktoken with the bytes and the tokens of a byte-level BPE, in their order."""
    tokenizer, trainer = byte_level()
    tokenizer.train_from_iterator(TEXTS, trainer)
    characters = {chr(n): n for n in range(33, 127)} | {chr(n): n for n in range(161, 256)}
    del characters["\xad"]
    rest = [n for n in range(256) if n not in characters.values()]
    characters |= {chr(256 + i): n for i, n in enumerate(rest)}  # GPT-2's names of bytes
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    tokens = [bytes(characters[c] for c in token) for token, _ in vocabulary if token != END]
    return {token: rank for rank, token in enumerate(tokens)}


def _ranks_file(ranks):
    lines = [f"{base64.b64encode(token).decode()} {rank}" for token, rank in ranks.items()]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def pieces():
    """A model as sentencepiece trains it by default, and one that keeps spaces and bytes."""
    found = {}
    for name, options in {
        "default": {"hard_vocab_limit": False},
        "exact": {
            "model_type": "bpe",
            "byte_fallback": True,
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
        },
    }.items():
        model = io.BytesIO()
        sentences = [line for text in TEXTS for line in text.splitlines() if line]
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            vocab_size=600,
            minloglevel=2,
            **options,
        )
        found[name] = model.getvalue()
    return found


def hugging_face(path, **fields):
    return train_tokenizer(TokenizerConfig("huggingface", path=str(path), **fields), [])


@pytest.fixture(scope="module")
def byte_level_tokenizer(directories):
    return hugging_face(directories["byte_level"])


def test_special_tokens_are_read_where_a_chat_spells_them(directories, byte_level_tokenizer):
    theirs = tokenizers.Tokenizer.from_file(str(directories["byte_level"] / "tokenizer.json"))
    theirs.no_truncation()
    theirs.no_padding()
    text = f"a chat{END}ends"
    special = byte_level_tokenizer.reading_special_tokens()
    assert special.encode(text).tolist() == theirs.encode(text).ids
    assert special.end_of_document in special.encode(text)
    assert byte_level_tokenizer.end_of_document not in byte_level_tokenizer.encode(text)
    assert train_tokenizer(TokenizerConfig("byte"), []).reading_special_tokens() is None


@pytest.mark.parametrize(("name", "lossless"), zip(MAKERS, [True, False, False], strict=True))
def test_hugging_face_tokens_are_those_of_the_package(directories, name, lossless, tmp_path):
    ours = hugging_face(directories[name])
    theirs = tokenizers.Tokenizer.from_file(str(directories[name] / "tokenizer.json"))
    theirs.no_truncation()
    theirs.no_padding()
    expected = [theirs.encode(text, add_special_tokens=False).ids for text in TEXTS]
    assert [ids.tolist() for ids in ours.encode_all(TEXTS)] == expected
    assert ours.vocab_size == theirs.get_vocab_size()
    assert ours.end_of_document == theirs.token_to_id(ENDS[name])
    assert ours.lossless == lossless and not ours.tokens_are_words
    if lossless:
        assert [ours.decode(np.array(ids)) for ids in expected] == TEXTS
    assert hugging_face(directories[name] / "tokenizer.json").model == ours.model
    ours.save(tmp_path)
    saved = load_tokenizer(tmp_path)
    assert saved._replace(codec=None) == ours._replace(codec=None)
    assert saved.encode(TEXTS[0]).tolist() == expected[0]


@pytest.mark.parametrize("name", MAKERS)
def test_a_text_that_spells_the_end_does_not_end_a_document(directories, name):
    tokenizer = hugging_face(directories[name])
    for text in (ENDS[name], f"a {ENDS[name]} b{ENDS[name]}{ENDS[name]}"):
        assert tokenizer.end_of_document not in tokenizer.encode(text)
    if name == "byte_level":
        assert tokenizer.decode(tokenizer.encode(f"a{END} b")) == f"a{END} b"


@given(text=ANY_TEXT)
@settings(max_examples=100, deadline=None)
def test_a_lossless_hugging_face_tokenizer_gives_back_any_text(byte_level_tokenizer, text):
    ids = byte_level_tokenizer.encode(text)
    assert byte_level_tokenizer.decode(ids) == text
    assert byte_level_tokenizer.end_of_document not in ids


def test_tokens_added_behind_the_vocabulary_count(directories, tmp_path):
    theirs = tokenizers.Tokenizer.from_file(str(directories["byte_level"] / "tokenizer.json"))
    theirs.add_special_tokens(["<|pad|>"])
    theirs.save(str(tmp_path / "tokenizer.json"))
    assert hugging_face(tmp_path).vocab_size == 501
    chosen = hugging_face(tmp_path, end_of_document="<|pad|>")
    assert chosen.end_of_document == 500
    assert chosen.model != hugging_face(tmp_path).model


def test_words_begin_where_they_do_in_the_text(directories):
    for name in ("byte_level", "metaspace"):
        tokenizer = hugging_face(directories[name])
        ids = tokenizer.encode("the import, a module")
        starts = word_boundaries(tokenizer).starts(ids)
        words = [tokenizer.decode(part) for part in np.split(ids, np.flatnonzero(starts)[1:])]
        assert [word.strip() for word in words] == ["the", "import", ",", "a", "module"]


def test_tiktoken_files_are_read_as_the_package_reads_them(ranks, tmp_path):
    file = tmp_path / "small.tiktoken"
    file.write_text(_ranks_file(ranks))
    ours = train_tokenizer(TokenizerConfig("tiktoken", path=str(tmp_path)), [])
    theirs = tiktoken.Encoding(
        "small", pat_str=_GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={END: len(ranks)}
    )
    assert [ids.tolist() for ids in ours.encode_all(TEXTS)] == [
        theirs.encode_ordinary(text) for text in TEXTS
    ]
    assert ours.lossless and ours.end_of_document == len(ranks) == ours.vocab_size - 1
    assert [ours.decode(ids) for ids in ours.encode_all([END, *TEXTS])] == [END, *TEXTS]
    assert ours.end_of_document not in ours.encode(END)
    file.write_text(_ranks_file(ranks) + f"= {len(ranks)}\n")  # as Whisper's file ends
    longer = train_tokenizer(TokenizerConfig("tiktoken", path=str(file)), [])
    assert longer.end_of_document == len(ranks) + 1 and longer.lossless


def test_tiktoken_and_the_same_merges_of_hugging_face_agree(ranks, directories, tmp_path):
    (tmp_path / "small.tiktoken").write_text(_ranks_file(ranks))
    ours = train_tokenizer(TokenizerConfig("tiktoken", path=str(tmp_path)), [])
    other = hugging_face(directories["byte_level"])
    for text in TEXTS:
        assert (ours.encode(text) + 1).tolist() == other.encode(text).tolist()  # 0 is the end there


@pytest.mark.parametrize(("name", "lossless"), [("default", False), ("exact", True)])
def test_sentencepiece_models_are_read_as_the_package_reads_them(pieces, name, lossless, tmp_path):
    (tmp_path / "spiece.model").write_bytes(pieces[name])
    ours = train_tokenizer(TokenizerConfig("sentencepiece", path=str(tmp_path)), [])
    theirs = sentencepiece.SentencePieceProcessor(model_proto=pieces[name])
    assert [ids.tolist() for ids in ours.encode_all(TEXTS)] == theirs.encode(TEXTS)
    assert ours.lossless == lossless
    assert (ours.end_of_document, ours.vocab_size) == (theirs.eos_id(), theirs.vocab_size())
    assert ours.end_of_document not in ours.encode("a</s>b")


def test_tokens_stand_in_the_text_where_their_characters_do(directories, ranks, pieces, tmp_path):
    (tmp_path / "spiece.model").write_bytes(pieces["default"])
    (tmp_path / "small.tiktoken").write_text(_ranks_file(ranks))
    text = "The  import\n statement, \U0001f642\U0001f642 na\u00efve "

    def parts(tokenizer):
        offsets = token_offsets(tokenizer, text, tokenizer.encode(text))
        return [text[first:last] for first, last in offsets.tolist()]

    def read(kind):
        return train_tokenizer(TokenizerConfig(kind, path=str(tmp_path)), [])

    byte_level = hugging_face(directories["byte_level"])
    theirs = tokenizers.Tokenizer.from_file(str(directories["byte_level"] / "tokenizer.json"))
    theirs.no_truncation()
    expected = theirs.encode(text, add_special_tokens=False).offsets
    assert parts(byte_level) == [text[first:last] for first, last in expected]
    assert parts(read("tiktoken")) == parts(byte_level)
    assert byte_level.lossless and not hugging_face(directories["word_piece"]).lossless
    assert "".join(parts(hugging_face(directories["word_piece"]))) == "".join(text.split())
    joined = "".join(parts(read("sentencepiece"))).replace(" ", "")
    assert joined == "Theimportstatement,nave"  # it has no pieces for the others


def test_a_long_text_is_encoded_whole(directories, monkeypatch):
    tokenizer = hugging_face(directories["metaspace"])  # which marks the beginning of each text
    monkeypatch.setattr(token_stream, "_LONGEST_PIECE", 100)
    text = " ".join(TEXTS)
    assert tokenize(tokenizer, [text]).tokens[1:-1].tolist() == tokenizer.encode(text).tolist()


def test_the_tokenizer_of_a_run_is_taken_whatever_kind_is_named(directories, tmp_path):
    run = tmp_path / "run"
    tokenizer = hugging_face(directories["byte_level"])
    tokenizer.save(run / "tokenizer")
    for kind in ("bpe", "huggingface", "tiktoken"):
        for path in (run, run / "tokenizer"):
            assert train_tokenizer(TokenizerConfig(kind, path=str(path)), []).model == (
                tokenizer.model
            )


def test_the_model_and_not_its_path_is_the_identity(directories, tmp_path):
    copy = tmp_path / "elsewhere.json"
    copy.write_bytes((directories["byte_level"] / "tokenizer.json").read_bytes())
    first, second, other = (
        identity(TokenizerConfig("huggingface", path=str(path)))
        for path in (directories["byte_level"], copy, directories["metaspace"])
    )
    assert first == second != other


def test_the_size_of_a_vocabulary_on_disk_is_known_before_the_data(directories):
    tokenizer = TokenizerConfig("huggingface", path=str(directories["metaspace"]))
    size = hugging_face(directories["metaspace"]).vocab_size
    assert DataConfig(tokenizer=tokenizer).expected_sizes == {"vocab_size": size}


def _write(path, text):
    path.write_text(text)
    return path


def test_files_that_are_no_tokenizer_are_refused(directories, ranks, tmp_path):
    whole = json.loads((directories["byte_level"] / "tokenizer.json").read_text())
    later = json.dumps(whole | {"version": "9.0"})
    del whole["model"]["vocab"][END]
    no_end = json.dumps(whole | {"added_tokens": []})
    cases = {
        "there is no such file": ("huggingface", tmp_path / "missing.json"),
        "Expecting value": ("huggingface", _write(tmp_path / "text.json", "no JSON")),
        "holds no model": ("huggingface", _write(tmp_path / "list.json", "[]")),
        "tokenizers .* says": ("huggingface", _write(tmp_path / "later.json", later)),
        "none of .*end_of_text.* to end a document; set data.tokenizer.end_of_document": (
            "huggingface",
            _write(tmp_path / "no_end.json", no_end),
        ),
        "holds no tokenizer.json, which data.tokenizer.kind=huggingface reads$": (
            "huggingface",
            tmp_path,
        ),
        "line 1 is no base64": ("tiktoken", _write(tmp_path / "a.json", "no ranks here")),
        "no token for 256 of the 256": ("tiktoken", _write(tmp_path / "b.json", "")),
        "kind=sentencepiece: ": ("sentencepiece", _write(tmp_path / "c.json", "no model")),
        "no run; .*set data.tokenizer.kind=huggingface": ("bpe", directories["byte_level"]),
        "elsewhere holds no tokenizer that": ("bpe", tmp_path / "elsewhere"),
    }
    for message, (kind, path) in cases.items():
        with pytest.raises(UserError, match=message):
            train_tokenizer(TokenizerConfig(kind, path=str(path)), [])
    spanning = [(f"({letter}" * 2).encode() for letter in "abcdefghijkl"]
    other = ranks | {token: len(ranks) + i for i, token in enumerate(spanning)}
    path = _write(tmp_path / "other.tiktoken", _ranks_file(other))
    with pytest.raises(UserError, match="12 of its 511 tokens span what GPT-2's pattern cuts"):
        train_tokenizer(TokenizerConfig("tiktoken", path=str(path)), [])
    with pytest.raises(UserError, match="set data.tokenizer.kind=tiktoken$"):
        hugging_face(tmp_path)


def test_a_kind_of_files_needs_a_path():
    for check in (TokenizerConfig.validate, lambda config: train_tokenizer(config, [])):
        with pytest.raises(UserError, match="set data.tokenizer.path"):
            check(TokenizerConfig("huggingface"))


def test_a_text_without_tokens_is_refused_and_makes_a_tokenizer_lossy(tmp_path):
    tokenizer = tokenizers.Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = hugging_face(tmp_path)
    assert not found.lossless and found.encode("a a").tolist() == [0, 0]
    with pytest.raises(UserError, match="cannot encode the text .*clean the text, or take"):
        found.encode("a b")
    with pytest.raises(UserError, match="cannot encode the text"):
        found.encode("a </s> a")  # its parts are no words either


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({b"\x01": 0}, "two of its tokens have one rank"),
        ({b"\x01": -1}, "a rank is below 0"),
        ({b"\x01": 2**31}, "a rank is below 0 or above 2,147,483,647"),
    ],
)
def test_ranks_at_which_tiktoken_would_panic_are_refused(change, message, tmp_path):
    ranks = {bytes([byte]): byte for byte in range(256)} | change
    lines = [f"{base64.b64encode(token).decode()} {rank}" for token, rank in ranks.items()]
    path = _write(tmp_path / "a.tiktoken", "\n".join(lines))
    with pytest.raises(UserError, match=message):
        train_tokenizer(TokenizerConfig("tiktoken", path=str(path)), [])


def _word_level(**changes):
    """A tokenizer.json of three words and an end."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    vocabulary = {"a": 0, "b": 1, "<unk>": 2}
    return {
        "version": "1.0",
        "added_tokens": [{"id": 3, "content": "</s>", "special": True, **flags}],
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    } | changes


def _split(pattern):
    pattern = {"Regex": pattern}
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


_LONGER = {"type": "Replace", "pattern": {"String": "x"}, "content": "x" * 40}
_HUGE = {"type": "Sequence", "normalizers": [_LONGER] * 3}
_OF_MERGES = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a", "b"]]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalizer": _HUGE}, "its normalizer makes texts more than 1,000 times as long"),
        ({"decoder": {"type": "Sequence", "decoders": [_LONGER] * 3}}, "its decoder makes texts"),
        ({"model": {**_OF_MERGES, "vocab": {"a": 0, "b": 2**32 - 1}}}, "tokenizers .* says"),
        (
            {"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 10**9}, "unk_token": "a"}},
            "its ids run up to 1,000,000,000, and it has 3 tokens",
        ),
    ],
)
def test_a_tokenizer_that_would_take_all_memory_or_panic_is_refused(changes, message, tmp_path):
    path = _write(tmp_path / "tokenizer.json", json.dumps(_word_level(**changes)))
    with pytest.raises(UserError, match=f"is no tokenizer.json that can be read: .*{message}"):
        hugging_face(path)


def test_a_pattern_that_takes_forever_is_one_line(tmp_path):
    """The package panics after 10,000,000 steps, which is no Exception in Python."""
    hard = _word_level(pre_tokenizer=_split("(x+x+)+y"))
    path = _write(tmp_path / "tokenizer.json", json.dumps(hard))
    tokenizer = hugging_face(path)
    assert not tokenizer.lossless
    with pytest.raises(UserError, match="cannot encode the text .*retry-limit-in-match over"):
        tokenizer.encode("x" * 100)


def test_steps_of_decoding_that_fail_are_one_line(tmp_path):
    hard = {"type": "Replace", "pattern": {"Regex": "(x+x+)+y"}, "content": ""}
    words = {"type": "WordLevel", "vocab": {"x" * 60: 0, "a": 1, "<unk>": 2}, "unk_token": "<unk>"}
    path = _write(tmp_path / "tokenizer.json", json.dumps(_word_level(decoder=hard, model=words)))
    tokenizer = hugging_face(path)
    with pytest.raises(UserError, match="cannot decode its tokens .*retry-limit-in-match over"):
        tokenizer.codec.decode([0])


def test_ranks_with_ids_of_no_token_are_refused(ranks, tmp_path):
    path = tmp_path / "far.tiktoken"
    path.write_text(_ranks_file({**ranks, b"far away": 10**9}))
    with pytest.raises(UserError, match="its ids run up to 1,000,000,000, and it has"):
        train_tokenizer(TokenizerConfig("tiktoken", path=str(path)), [])
