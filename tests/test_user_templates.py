import pytest

from lm_jax.errors import UserError
from lm_jax.user_templates import UserTemplate

FAULTS = {
    "{{ a": "the template, line 1: .*; expected a jinja2 template",
    "x\n{% nothing %}": "the template, line 2: Encountered unknown tag 'nothing'",
}
RAISING = {
    "{{ b }}": "UndefinedError: 'b' is undefined; it is given a$",
    "{{ 1 / 0 }}": "ZeroDivisionError",
    "{{ raise_exception('roles must\nalternate') }}": "ValueError: roles must alternate",
    "{{ a.__class__.__mro__ }}": "SecurityError",
    "{{ a.append(2) }}": "SecurityError",
    "{% for i in range(999999) %}{% endfor %}": "OverflowError",
}


@pytest.mark.parametrize("source", FAULTS)
def test_a_template_with_a_syntax_error_is_one_line(source):
    with pytest.raises(UserError, match=FAULTS[source]):
        UserTemplate(source, "the template")


@pytest.mark.parametrize("source", RAISING)
def test_a_template_that_raises_is_one_line(source):
    with pytest.raises(UserError, match=r"^x.jsonl:3: the template raises ") as raised:
        UserTemplate(source, "the template").fill({"a": [1]}, "x.jsonl:3")
    assert "\n" not in str(raised.value)
    raised.match(RAISING[source])


def test_templates_have_what_chat_templates_use():
    source = "{% for x in a %}{% if x == 2 %}{% break %}{% endif %}{{ x | tojson }},{% endfor %}"
    assert UserTemplate(source, "t").fill({"a": ["<é>", 1, 2, 3]}) == '"<é>",1,'
    assert UserTemplate("{% if 1 %}\n  x\n  {% endif %}y", "t").fill({}) == "  x\ny"
    assert len(UserTemplate("{{ strftime_now('%Y') }}", "t").fill({})) == 4
    assert UserTemplate("{{ missing }}.", "t", is_strict=False).fill({}) == "."


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ " + "(" * 5_000, "it cannot be compiled .RecursionError"),
        ("{{ " + "9" * 5_000 + " }}", "it cannot be compiled .ValueError: Exceeds the limit"),
    ],
)
def test_a_template_that_python_cannot_compile_is_one_line(source, message):
    with pytest.raises(UserError, match=message):
        UserTemplate(source, "it")


def test_products_and_numbers_that_templates_use_are_those_of_python():
    source = (
        "{{ '-' * 3 }}{{ 2 * 3.5 }}{{ 2 ** 10 }}{{ 2 ** -1 }}{{ -3 * 'a' }}"
        "{{ range(2, 9, 3) | list }}"
    )
    template = UserTemplate(source, "it")
    for _ in range(2):  # numbers are counted anew each time
        assert template.fill({}) == "---7.010240.5[2, 5, 8]"
