"""Chats with an imported model, by the template that came with its tokenizer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lm_jax.config.experiment import SamplesConfig
from lm_jax.errors import UserError
from lm_jax.generation import generate
from lm_jax.generation.generate import Completion
from lm_jax.json_values import read_object
from lm_jax.runs.generate import text_generator
from lm_jax.runs.loaded_model import LoadedModel
from lm_jax.runs.workdir import imported_folder
from lm_jax.user_templates import UserTemplate

_TEMPLATE, _TOKENIZER = "chat_template.jinja", "tokenizer_config.json"
_NAME_ENDS = ("generation_config.json", "config.json")  # the first that has an eos_token_id
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")

Message = Mapping[str, str]  # role (system, user, assistant) and content


class ChatTemplate(NamedTuple):
    """A chat template and the special tokens that it may name."""

    template: UserTemplate
    special: dict[str, str]

    def fill(self, messages: Sequence[Message]) -> str:
        """Returns a chat as the text that the model continues with its answer.

        Raises:
          UserError: the template raises an error.
        """
        values: dict[str, Any] = {"messages": list(messages), "add_generation_prompt": True}
        return self.template.fill(values | {"tools": None, "documents": None} | self.special)


def chat_template_of(workdir: Path) -> ChatTemplate:
    """Returns the chat template of an imported model.

    Raises:
      UserError: there is none, a file is damaged, or it has a syntax error.
    """
    folder = imported_folder(workdir) or workdir
    config = read_object(folder / _TOKENIZER) if (folder / _TOKENIZER).is_file() else {}
    if (folder / _TEMPLATE).is_file():
        source, origin = _text_of(folder / _TEMPLATE), folder / _TEMPLATE
    else:
        origin = folder / _TOKENIZER
        source = _default(config.get("chat_template"), origin)
    if not source:
        raise UserError(
            f"{workdir} has no chat template: {folder} holds neither {_TEMPLATE} nor a "
            f"chat_template in {_TOKENIZER}; chat with an imported model that was tuned for chats, "
            "or leave out --chat"
        )
    found = {name: _content(config.get(name), name, folder / _TOKENIZER) for name in _SPECIAL}
    special = {name: text for name, text in found.items() if text is not None}
    return ChatTemplate(UserTemplate(source, f"the chat template of {origin}", False), special)


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error}); copy it again") from None


def _default(given: Any, path: Path) -> str:
    """Returns the template, or the one of a list that is called default."""
    match given or "":
        case str(template):
            return template
        case list(each) if all(_is_named(entry) for entry in each):
            return {entry["name"]: entry["template"] for entry in each}.get("default", "")
    raise UserError(
        f"chat_template in {path} is neither a text nor a list of objects with the texts name and "
        "template; restore it"
    )


def _is_named(entry: Any) -> bool:
    match entry:
        case {"name": str(), "template": str()}:
            return True
    return False


def _content(token: Any, name: str, path: Path) -> str | None:
    match token:
        case None | str():
            return token
        case {"content": str(text)}:
            return text
    raise UserError(
        f"{name} in {path} is neither a text nor an object with the text content; restore it"
    )


def ends_of_answers(workdir: Path) -> tuple[int, ...]:
    """Returns the tokens that end an answer of an imported model, as its files name them.

    Raises:
      UserError: what they name is no token.
    """
    folder = imported_folder(workdir) or workdir
    for path in (folder / name for name in _NAME_ENDS if (folder / name).is_file()):
        given = read_object(path).get("eos_token_id")
        if given is None:
            continue
        ids = given if isinstance(given, list) else [given]
        if not all(type(index) is int and 0 <= index < 2**31 for index in ids):
            raise UserError(
                f"{path}: eos_token_id is {given!r}; expected the id of a token or a list of ids"
            )
        return tuple(ids)
    return ()


def answer(
    run: LoadedModel,
    chats: Sequence[Sequence[Message]],
    config: SamplesConfig,
    *,
    seed: int = 0,
    stop: Sequence[str] = (),
) -> list[Completion]:
    """Returns the model's answers to chats, `num_samples` to each; their texts are answers alone.

    Special tokens are read where the template or a message spells them, as transformers does, and
    any `eos_token_id` of the model's files ends an answer.

    Raises:
      UserError: the model has no chat template or no tokenizer of Hugging Face, a template raises
        an error, or a chat does not fit the context.
    """
    template = chat_template_of(run.workdir)
    generator = text_generator(run, config)
    tokenizer = generator.tokenizer.reading_special_tokens()
    if tokenizer is None:
        raise UserError(
            f"the tokenizer of {run.workdir} is of kind {generator.tokenizer.kind}, which reads no "
            "special tokens; chat with a model whose folder has a tokenizer.json"
        )
    generator = generator._replace(tokenizer=tokenizer)
    texts = [template.fill(messages) for messages in chats]
    ends = ends_of_answers(run.workdir)
    found = generate.complete(
        generator, texts, config, seed=seed, stop=stop, begins=False, ends=ends
    )
    return [
        each._replace(text=each.text[each.prompt_characters :], prompt_characters=0)
        for each in found
    ]


def read_chat(text: str, system: str) -> list[Message]:
    """Returns the chat of a question: after a system message, if it is not empty."""
    messages = [{"role": "system", "content": system}] if system else []
    return [*messages, {"role": "user", "content": text}]
