import json
from types import SimpleNamespace

import pytest

from lm_jax.config.experiment import SamplesConfig
from lm_jax.data import TokenizerConfig, train_tokenizer
from lm_jax.errors import UserError
from lm_jax.generation.generate import Completion, TextGenerator
from lm_jax.runs import chat
from lm_jax.runs.chat import chat_template_of, ends_of_answers, read_chat
from lm_jax.runs.workdir import imported_folder
from tests.trusted_code import run_directory

CHAT_ML = (
    "{% for message in messages %}{% if loop.first and message.role != 'system' %}"
    "{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# tokenizer.apply_chat_template(..., add_generation_prompt=True) of transformers 5.24
EXPECTED = (
    "<|im_start|>system\nBe kind<|im_end|>\n<|im_start|>user\nHi?<|im_end|>\n"
    "<|im_start|>assistant\n"
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "imported").mkdir()
    return tmp_path / "imported"


def write(folder, **config):
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def test_a_chat_is_written_as_transformers_writes_it(folder):
    for template in (CHAT_ML, [{"name": "default", "template": CHAT_ML}]):
        write(folder, chat_template=template)
        found = chat_template_of(folder.parent)
        assert found.fill(read_chat("Hi?", "")) == EXPECTED
        assert found.fill(read_chat("Hi?", "Be kind")) == EXPECTED
    (folder / "chat_template.jinja").write_text(
        "{{ bos_token }}{% if tools is not none %}x{% endif %}{{ messages[0].content }}{{ other }}"
    )
    write(folder, chat_template=CHAT_ML, bos_token={"content": "<s>"}, eos_token=None)
    assert chat_template_of(folder.parent).fill(read_chat("Hi?", "")) == "<s>Hi?"


def test_a_template_that_is_missing_or_raises_is_one_line(folder):
    with pytest.raises(UserError, match="has no chat template: .*chat_template.jinja nor a"):
        chat_template_of(folder.parent)
    write(folder, chat_template="{{ raise_exception('no system role') }}")
    with pytest.raises(UserError, match=r"tokenizer_config.json raises ValueError: no system role"):
        chat_template_of(folder.parent).fill(read_chat("Hi?", "x"))
    write(folder, chat_template="{% for %}")
    with pytest.raises(UserError, match=r"tokenizer_config.json, line 1: .*; expected a jinja2"):
        chat_template_of(folder.parent)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"chat_template": [{"name": "default"}]}, "chat_template in .* neither a text nor a list"),
        ({"chat_template": ["x"]}, "chat_template in .* neither a text nor a list"),
        ({"chat_template": 7}, "chat_template in .* neither a text nor a list"),
        ({"chat_template": "x", "bos_token": {"id": 1}}, "bos_token in .* with the text content"),
        ({"chat_template": "x", "eos_token": 3}, "eos_token in .* neither a text nor an object"),
    ],
)
def test_a_damaged_template_is_one_line(folder, config, message):
    write(folder, **config)
    with pytest.raises(UserError, match=message):
        chat_template_of(folder.parent)
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(UserError, match="chat_template.jinja is not UTF-8"):
        chat_template_of(folder.parent)


def test_a_tuned_run_has_the_template_of_the_model_that_it_began_with(folder):
    tuned = folder.parent / "tuned"
    for path, begun in ((tuned, str(folder.parent)), (folder.parent / "other", "")):
        run_directory(path, fine_tuning={"workdir": begun})
    assert imported_folder(tuned) == folder and imported_folder(folder.parent) == folder
    assert imported_folder(folder.parent / "other") is None


def test_an_answer_is_what_follows_the_chat(folder, monkeypatch):
    write(folder, chat_template=CHAT_ML)
    byte = train_tokenizer(TokenizerConfig("byte"), [""])
    generator = TextGenerator(None, None, byte)
    monkeypatch.setattr(chat, "text_generator", lambda run, config: generator)
    run, samples = SimpleNamespace(workdir=folder.parent), SamplesConfig()
    with pytest.raises(UserError, match="of kind byte, which reads no special tokens"):
        chat.answer(run, [read_chat("Hi?", "")], samples)
    monkeypatch.setattr(type(byte), "reading_special_tokens", lambda tokenizer: byte)

    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 106]}')

    def complete(generator, texts, config, *, seed, stop, begins, ends):
        assert not begins and stop == ["!"] and seed == 3 and ends == (1, 106)
        return [Completion(text + "Hello", -1.0, -1.0, len(text)) for text in texts]

    monkeypatch.setattr(chat.generate, "complete", complete)
    (found,) = chat.answer(run, [read_chat("Hi?", "")], samples, seed=3, stop=["!"])
    assert found == Completion("Hello", -1.0, -1.0, 0)


def test_answers_end_at_what_the_files_of_a_model_name(folder):
    assert ends_of_answers(folder.parent) == ()
    (folder / "config.json").write_text('{"eos_token_id": 2}')
    assert ends_of_answers(folder.parent) == (2,)
    generation = folder / "generation_config.json"
    for text, expected in {'{"eos_token_id": [1, 106]}': (1, 106), "{}": (2,)}.items():
        generation.write_text(text)
        assert ends_of_answers(folder.parent) == expected
    for wrong in ('"</s>"', "[1, null]", "-1", "true"):
        generation.write_text(f'{{"eos_token_id": {wrong}}}')
        with pytest.raises(UserError, match="eos_token_id is .*; expected the id of a token or a"):
            ends_of_answers(folder.parent)
