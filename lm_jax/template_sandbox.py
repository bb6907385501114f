"""A sandbox of jinja2 in which a template of others takes bounded time and memory.

jinja2's own keeps Python's objects from a template. Loops over loops, and texts that are joined to
themselves, are left; here each loop, call and operator counts its work (`template_work.py`).
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sized
from typing import Any, TypeVar, cast

from jinja2 import Template, nodes, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from lm_jax.template_work import Work

_STEP, _READ, _TEXT, _SLICED = "_step", "_read", "_text", "_sliced"  # filters of our own
_NODES_A_STEP, _CHARACTERS_A_STEP = 50, 32
# Filters that look at one item after another, and those that look at none or one, of any depth.
_TURNING = frozenset("map reject rejectattr reverse select selectattr slice".split())
_SHALLOW = frozenset("attr batch count d default first items last length list random".split())
_DEEP_TESTS = frozenset(
    "!= < <= == > >= eq equalto ge greaterthan gt in le lessthan lower lt ne upper".split()
)

_LOREM = "generate_lorem_ipsum"

B = TypeVar("B", nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)


class SilentNamespace(Namespace):
    """A namespace whose text is short: it may hold itself."""

    def __repr__(self) -> str:
        """Returns a text without the values."""
        return "<Namespace>"


class BoundedSandbox(ImmutableSandboxedEnvironment):
    """An environment whose templates count their work."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self, **options: Any):
        """Makes an environment. The options are jinja2's."""
        self.work = work = Work()

        @pass_context
        def text(_: Context, value: Any) -> Any:
            work.make_text(value)
            return value

        @pass_context
        def read(_: Context, value: Any) -> Any:
            work.read(value)
            return value

        @pass_context
        def sliced(_: Context, value: Any) -> Any:
            return work.check(value)

        @pass_context
        def step(_: Context, steps: int) -> bool:
            work.spend(steps)
            return True

        super().__init__(optimized=False, finalize=text, **options)
        for name, function in self.filters.items():
            self.add_filter(name, function)
        tests = cast(dict[str, Callable[..., Any]], self.tests)
        self.tests = {name: self._counted_test(name, f) for name, f in tests.items()}
        self.filters |= {_STEP: step, _READ: read, _TEXT: text, _SLICED: sliced}
        self.binop_table |= {
            "+": work.plus,
            "*": work.times,
            "**": work.power,
            "%": work.modulo,
        }
        self.globals["namespace"] = SilentNamespace

    def add_filter(self, name: str, function: Callable[..., Any]) -> None:
        """Adds a filter that counts its work, or replaces one; jinja2's marks stay on it."""
        given = 1 if hasattr(function, "jinja_pass_arg") else 0

        @functools.wraps(function)
        def counted(*values: Any, **named: Any) -> Any:
            self.work.spend(1)
            own = values[given:]
            if name == "join":
                own = (*map(_materialized, own[:1]), *own[1:])
            if name in _TURNING:
                self.work.spend(len(own[0]) // 10 if own and isinstance(own[0], Sized) else 0)
            elif name not in _SHALLOW:
                self.work.make_text(*own, *named.values())
            if own:
                self.work.before(name, own, named)
            found = self.work.check(function(*values[:given], *own, **named))
            return self._counted_items(found) if isinstance(found, Iterator) else found

        self.filters = {**self.filters, name: counted}

    def compiled(self, source: str) -> Template:
        """Returns a template that counts its work.

        Raises:
          jinja2.TemplateSyntaxError: it is no template.
          Exception: Python cannot compile what jinja2 makes of it.
        """
        tree = _Counting().visit(self.parse(source))
        tree.set_environment(self)
        return self.from_string(tree)

    def filled(self, template: Template, values: Mapping[str, Any]) -> str:
        """Returns the text of a template with these values.

        Raises:
          TooMuchWork: it takes too long, or is too long.
          Exception: whatever the template raises.
        """
        self.work.begin(values)
        return template.render(values)

    def call(self, context: Context, function: Any, *values: Any, **named: Any) -> Any:  # type: ignore[override]
        """Calls a function or a method for a template. Raises TooMuchWork."""
        self.work.spend(1)
        method = getattr(function, "__wrapped__", function)  # jinja2 wraps `format`
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if isinstance(owner, str | bytes) and name == "join":
            values = tuple(map(_materialized, values))
            self.work.before(name, (*values[:1], owner), named)
        elif isinstance(owner, str | bytes | int):
            self.work.before(name, (owner, *values), named)
        elif name == _LOREM:
            self.work.before(name, (owner, *values), named)
        self.work.read(*values, *named.values())
        if isinstance(owner, str | bytes) or name in ("index", "count"):
            self.work.read(owner)
        return self.work.check(super().call(context, function, *values, **named))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Applies an operator. Raises TooMuchWork."""
        self.work.spend(1 + sum(x.bit_length() // 64 for x in (left, right) if type(x) is int))
        self.work.read(left, right)
        found = super().call_binop(context, operator, left, right)
        return self.work.check(found) if type(found) is int else found

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Returns an item for a template. Raises TooMuchWork."""
        if isinstance(argument, tuple):
            self.work.read(argument)  # its hash is of all that it holds
        return super().getitem(obj, argument)

    def _counted_test(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        given = 1 if hasattr(function, "jinja_pass_arg") else 0

        @functools.wraps(function)
        def counted(*values: Any, **named: Any) -> Any:
            self.work.spend(1)
            if name in _DEEP_TESTS:
                self.work.read(*values[given:], *named.values())
            return function(*values, **named)

        return counted

    def _counted_items(self, items: Iterator[Any]) -> Iterator[Any]:
        for each in items:
            self.work.spend(1)
            yield each


def _materialized(value: Any) -> Any:
    return list(value) if isinstance(value, Iterator) else value


class _Counting(NodeTransformer):
    """Adds what counts to a template: turns of loops, calls, and values that are read or joined."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        """Counts turns, also of what a condition leaves out."""
        found = self._with_steps(node)
        if found.test:
            step = _filtered(nodes.Const(1), _STEP, node)
            found.test = nodes.And(step, found.test, lineno=node.lineno)
        return found

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:
        """Counts calls by the length of the body."""
        return self._with_steps(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.CallBlock:
        """Counts calls by the length of the body."""
        return self._with_steps(node)

    def visit_Block(self, node: nodes.Block) -> nodes.Block:
        """Counts calls by the length of the body."""
        return self._with_steps(node)

    def _with_steps(self, node: B) -> B:
        characters = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        size = sum(1 for _ in node.find_all(nodes.Node))
        steps = 1 + characters // _CHARACTERS_A_STEP + size // _NODES_A_STEP
        self.generic_visit(node)
        counted = _filtered(nodes.Const(steps), _STEP, node)
        node.body.insert(0, nodes.ExprStmt(counted, lineno=node.lineno))
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        """Counts what is compared."""
        self.generic_visit(node)
        node.expr = _filtered(node.expr, _READ, node)
        for operand in node.ops:
            operand.expr = _filtered(operand.expr, _READ, node)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Concat:
        """Counts what is joined."""
        self.generic_visit(node)
        node.nodes = [_filtered(part, _TEXT, node) for part in node.nodes]
        return node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Dict:
        """Counts keys, whose hash is of all that they hold."""
        self.generic_visit(node)
        for pair in node.items:
            pair.key = _filtered(pair.key, _READ, node)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        """Counts slices."""
        self.generic_visit(node)
        is_slice = isinstance(node.arg, nodes.Slice) and node.ctx == "load"
        return _filtered(node, _SLICED, node) if is_slice else node


def _filtered(value: nodes.Expr, name: str, where: nodes.Node) -> nodes.Expr:
    if isinstance(value, nodes.Const) and name != _STEP:
        return value
    return nodes.Filter(value, name, [], [], None, None, lineno=where.lineno)
