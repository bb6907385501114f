"""Templates of others take bounded time and memory, and those of models are filled in as ever."""

import jinja2
import jinja2.sandbox
import pytest

from lm_jax import template_work
from lm_jax.errors import UserError
from lm_jax.user_templates import UserTemplate, _to_json
from tests.chat_templates import PUBLISHED

TOO_MUCH = "^it takes too much time or memory: "


def doubling(body: str, first: str = "'ab'") -> str:
    turns = f"{{% for i in range(16) %}}{body}{{% endfor %}}"
    return f"{{% set ns = namespace(x={first}) %}}{turns}{{{{ ns.x | length }}}}"


def nested(value: str, use: str) -> str:
    """Returns a template that puts a value twice into the next one, 18 times; `b` is equal."""
    sets = f"{{% set a = {value} %}}{{% set b = {value.replace('a', 'b')} %}}"
    return "{% set a = 'x' %}{% set b = 'x' %}" + sets * 18 + f"{{{{ {use} }}}}"


LOOPS = {
    "loops": "{% for i in range(200) %}{% for j in range(200) %}{% endfor %}{% endfor %}",
    "condition": "{% for i in range(200) %}{% for j in range(200) if j < 0 %}{% endfor %}"
    "{% endfor %}",
    "characters": "{% for i in 'a' * 99 %}{% for j in 'a' * 999 %}{% endfor %}{% endfor %}",
    "text": "{% for i in range(100) %}" + "x" * 10_000 + "{% endfor %}",
    "macros": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}"
    "{{ m(15) }}",
    "callers": "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}"
    + "{% call m() %}" * 14
    + "{% endcall %}" * 14,
    "blocks": "".join(
        f"{{% block b{i} %}}{{{{ self.b{i + 1}() }}}}{{{{ self.b{i + 1}() }}}}{{% endblock %}}"
        for i in range(14)
    )
    + "{% block b14 %}{% endblock %}",
    "filters": "{% for i in range(100) %}{{ range(9000) | reject | first }}{% endfor %}",
    "values": "{% for i in range(1000) %}{% set x = [" + "1," * 2000 + "] %}{% endfor %}",
    "output": "{% for i in range(100) %}{{ 'a' * 9000 }}{% endfor %}",
    "compared": "{% set a = 'a' * 100000 %}{% for i in range(99) %}{{ a == a ~ 'b' }}{% endfor %}",
    "searched": "{% set a = 'a' * 100000 %}{% for i in range(99) %}{{ 'b' in a }}{% endfor %}",
    "counted": "{% set a = 'a' * 100000 %}{% for i in range(99) %}{{ a.count('b') }}{% endfor %}",
    "sliced": "{% set a = 'a' * 100000 %}{% for i in range(99) %}{% set b = a[1:] %}{% endfor %}",
}
DOUBLING = {
    "plus": doubling("{% set ns.x = ns.x + ns.x %}", "'a' * 99"),
    "lists": doubling("{% set ns.x = ns.x + ns.x %}", "[1]"),
    "concatenation": doubling("{% set ns.x = ns.x ~ ns.x %}", "'a' * 99"),
    "join": doubling("{% set ns.x = [ns.x, ns.x] | join %}", "'a' * 99"),
    "join of a separator": doubling("{% set ns.x = ns.x.join(['a', 'a', ns.x]) %}", "'a' * 99"),
    "join of a generator": "{{ range(9999) | map('string') | join('a' * 999) }}",
    "%": doubling("{% set ns.x = '%s%s' % (ns.x, ns.x) %}", "'a' * 99"),
    "format": doubling("{% set ns.x = '%s%s' | format(ns.x, ns.x) %}", "'a' * 99"),
    "format method": doubling("{% set ns.x = '{0}{0}'.format(ns.x) %}", "'a' * 99"),
    "format_map": doubling("{% set ns.x = '{a}{a}'.format_map({'a': ns.x}) %}", "'a' * 99"),
    "replace": "{{ ('a' * 9999) | replace('a', 'b' * 999) }}",
    "replace by name": "{{ ('a' * 9999) | replace(new='b' * 999, old='a') }}",
    "replace method": "{{ ('a' * 9999).replace('a', 'b' * 999) }}",
    "translate": "{{ ('a' * 9999).translate({97: 'b' * 999}) }}",
    "set block": doubling(
        "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}", "'a' * 99"
    ),
    "sum": "{{ ([[1]] * 3000) | sum(start=[]) }}",
}
WIDTHS = {
    "%d": "{{ '%9999999d' % 1 }}",
    "%*d": "{{ '%*d' % (9999999, 1) }}",
    "%.*f": "{{ '%.*f' | format(9999999, 1.5) }}",
    "{:>9}": "{{ '{:>9999999}'.format('a') }}",
    "{:>{}}": "{{ '{:>{}}'.format('a', 9999999) }}",
    "{:>{w}}": "{{ '{:>{w}}'.format('a', w=9999999) }}",
    "attr": "{{ ('{:>9999999}' | attr('format'))('a') }}",
    "map": "{{ ['%9999999d'] | map('format', 1) | list }}",
    "center": "{{ 'a' | center(9999999) }}",
    "filter block": "{% filter center(9999999) %}a{% endfilter %}",
    "ljust": "{{ 'a'.ljust(9999999) }}",
    "zfill": "{{ 'a'.zfill(9999999) }}",
    "expandtabs": r"{{ '\t\t\t'.expandtabs(999999) }}",
    "indent": r"{{ ('\n' * 999) | indent(9999) }}",
    "batch": "{{ [1] | batch(999999, 'x') | list }}",
    "slice": "{{ [1] | slice(999999) | list }}",
    "tojson": "{{ [[1]] | tojson(indent=9999999) }}",
    "lipsum": "{{ lipsum(n=999) }}",
    "to_bytes": "{{ (1).to_bytes(9999999, 'big') }}",
    "product": "{{ 10000000000 * [1] }}",
}
NESTED = {
    "shown": nested("[a, a]", "a"),
    "string": nested("[a, a]", "a | string"),
    "upper": nested("[a, a]", "a | upper"),
    "~": nested("[a, a]", "a ~ ''"),
    "tojson": nested("{'x': a, 'y': a}", "a | tojson"),
    "%s": nested("[a, a]", "'%s' % (a,)"),
    "==": nested("[a, a]", "a == b"),
    "in": nested("[a, a]", "a in [b]"),
    "eq": nested("[a, a]", "a is eq b"),
    "index": nested("[a, a]", "[b].index(a)"),
    "sort": nested("[a, a]", "[a, b] | sort"),
    "key": nested("(a, a)", "{a: 1}"),
    "item": nested("(a, a)", "{}[a]"),
    "get": nested("(a, a)", "{}.get(a)"),
    "unique": nested("(a, a)", "[a] | unique | list"),
}
SLOW = {
    "power": "{{ 9 ** 999999999 }}",
    "squares": doubling("{% set ns.x = ns.x * ns.x %}", "999"),
    "hexadecimal": "{{ ('f' * 99999) | int(base=16) }}",
    "round": "{{ 1.5 | round(999999, 'ceil') }}",
    "wordwrap": "{{ ('a' * 20000) | wordwrap(1) }}",
    "striptags": "{{ ('<' * 20000) | striptags }}",
    "punycode": "{{ ('é' * 20000).encode('Punycode') }}",
}
BOMBS = LOOPS | DOUBLING | WIDTHS | NESTED | SLOW


@pytest.mark.parametrize("name", BOMBS)
def test_a_template_of_others_does_not_take_all_time_and_memory(name, monkeypatch):
    monkeypatch.setattr(template_work, "STEPS", 10_000)
    with pytest.raises(UserError, match=TOO_MUCH) as raised:
        UserTemplate(BOMBS[name], "it").fill({})
    assert "\n" not in str(raised.value)


def test_loops_are_counted_anew_each_time():
    template = UserTemplate("{% for i in range(90000) %}{% endfor %}", "it")
    for _ in range(15):
        assert template.fill({}) == ""
    with pytest.raises(UserError, match=f"{TOO_MUCH}more than 1,000,000 steps of loops, calls"):
        UserTemplate("{% for i in range(90000) %}{% endfor %}" * 12, "it").fill({})


def test_a_template_may_do_more_with_a_longer_text():
    template = UserTemplate("{% for x in text %}{{ x }}{% endfor %}", "it")
    text = "ab" * 1_000_000
    assert template.fill({"text": text}) == text


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize(("turns", "characters"), [(2, 20), (300, 300), (1, 300_000)])
def test_chats_are_filled_in_as_by_jinja2(name, turns, characters):
    arguments = {"city": "Bern", "days": [1, 2, {"at": None}]}
    chat = [{"role": "system", "content": " Be kind. "}]
    for _ in range(turns):
        said = {"role": "assistant", "content": "<think>\nhm\n</think>\n\n" + "b" * characters}
        calls = [{"function": {"name": "weather", "arguments": arguments}}]
        chat += [{"role": "user", "content": "é" * characters}, said | {"tool_calls": calls}]
        if name == "Qwen":
            chat.append({"role": "tool", "content": "20 °C"})
    tools = [{"function": {"name": "weather", "parameters": {"city": {"type": "string"}}}}]
    values = {"messages": chat, "tools": tools, "bos_token": "<s>", "eos_token": "</s>"}
    plain = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    plain.filters["tojson"] = _to_json
    template = UserTemplate(PUBLISHED[name], "it", is_strict=False)
    for prompt in (True, False):
        given = values | {"add_generation_prompt": prompt}
        found = template.fill(given)
        assert found == plain.from_string(PUBLISHED[name]).render(given)
        assert len(found) > 2 * turns * characters


@pytest.mark.parametrize(
    "source",
    [
        "{{ 7 // 2 - 1 / 4 + 5 % 3 }}{{ 'a' + 'b' }}{{ [1] + [2] }}{{ '%d-%s' % (1, 'x') }}",
        "{{ names | join(', ') }}{{ ', '.join(names) }}{{ names | map('upper') | join }}",
        "{{ 1 < 2 <= 2 != 3 }}{{ 'a' in names }}{{ 'z' not in names }}{{ names[1:][0] }}",
        "{% for a in names if a != 'b' %}{{ loop.index }}/{{ loop.length }}{{ a }}{% endfor %}",
        "{% for a in names recursive %}{{ a }}{% if loop.depth < 3 %}{{ loop('xy') }}{% endif %}"
        "{% endfor %}",
        "{% for a in names %}{% if loop.first %}{% continue %}{% endif %}{{ a }}{% break %}"
        "{% else %}none{% endfor %}{% for a in [] %}{% else %}none{% endfor %}",
        "{% macro m(x, y=2) %}{{ x }}{{ y }}{{ caller() if caller }}{% endmacro %}"
        "{{ m(1) }}{% call m(3, y=4) %}!{% endcall %}",
        "{% set ns = namespace(n=0) %}{% for a in names %}{% set ns.n = ns.n + 1 %}{% endfor %}"
        "{{ ns.n }}{% set x %}a{{ names }}{% endset %}{{ x }}{% filter upper %}a{% endfilter %}",
        "{{ {'k': [1, 2.5, none, true]} }}{{ names | tojson(indent=1) }}{{ names | sort | list }}",
        "{{ '{:>5}|{a}'.format('x', a=1) }}{{ 'a' | center(5) }}{{ 'a-b'.split('-') }}",
        "{{ range(3) | list }}{{ dict(a=1).items() | list }}{{ names | batch(2) | list }}",
        "{% autoescape true %}{{ '<' ~ ('&' ~ names[0]) | safe }}{{ '<' }}{% endautoescape %}"
        "{{ '<' ~ 1 }}",
        "{% block a %}{{ names[0] }}{% endblock %}{{ self.a() }}{{ 1.55 | round(1) }}",
    ],
)
def test_what_is_counted_is_what_jinja2_gives(source):
    plain = jinja2.sandbox.ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    plain.filters["tojson"] = _to_json
    values = {"names": ["a", "c", "b"]}
    assert UserTemplate(source, "it", is_strict=False).fill(values) == plain.from_string(
        source
    ).render(values)


def test_a_namespace_that_holds_itself_has_a_short_text():
    source = "{% set ns = namespace() %}{% set ns.x = [ns, ns] %}{{ ns.x }}"
    assert UserTemplate(source, "it").fill({}) == "[<Namespace>, <Namespace>]"
