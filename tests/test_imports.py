"""Imports run downward: from programs to experiments, from experiments to models and data."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the roof down. Rooms of one floor may import each other, as long as no circle comes of it.
FLOORS = (
    ("launch", "configs", "benchmarks"),
    ("lm_jax",),  # `lm_jax.load` and what else stands in lm_jax/__init__.py
    ("sweeps", "interop"),
    ("runs",),
    ("analysis", "benchmarking"),
    ("generation", "costs"),
    ("build",),
    ("objectives", "training", "scaling_laws"),
    ("evaluation", "config", "reports"),
    ("telemetry", "parallel"),
    ("models", "data"),
    (
        "errors",
        "json_values",
        "atomic_files",
        "host",
        "choices",
        "code_names",
        "trusted_code",
        "digests",
        "nested",
        "fields",
    )
    + ("plurals", "progress", "user_templates", "template_sandbox", "template_work")
    + ("file_names", "whole_numbers"),
)
FLOOR_OF = {room: -height for height, rooms in enumerate(FLOORS) for room in rooms}
STRANGERS = {("models", "data"), ("data", "models")}


def _modules(root: Path) -> dict[str, Path]:
    """Every module of the repository but its tests, by dotted name."""
    found = {}
    for package in ("lm_jax", "launch", "configs", "benchmarks"):
        for path in sorted((root / package).rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if parts[0] == "lm_jax" and len(parts) > 1 else parts[0]


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from lm_jax import build` names a module, `from lm_jax.build import build` does not.
            whole = node.module in ("lm_jax", "launch", "configs")
            yield from (f"{node.module}.{a.name}" if whole else node.module for a in node.names)


def _arrows(modules: Mapping[str, Path]) -> dict[tuple[str, str], str]:
    """Arrows from room to room, each with one import that draws it."""
    arrows: dict[tuple[str, str], str] = {}
    for module, path in modules.items():
        for imported in _imports(path):
            ours = imported.split(".")[0] in ("lm_jax", "launch", "configs", "benchmarks")
            if ours and _room(imported) != _room(module) and imported != "lm_jax":
                arrows.setdefault((_room(module), _room(imported)), f"{module} -> {imported}")
    return arrows


def _wrong(arrows: Mapping[tuple[str, str], str]) -> list[str]:
    """Arrows that run up, lie between models and data, or close a circle on one floor."""
    wrong = []
    for (above, below), shown in arrows.items():
        rises = FLOOR_OF[above] < FLOOR_OF[below]
        returns = FLOOR_OF[above] == FLOOR_OF[below] and (below, above) in arrows
        if rises or returns or (above, below) in STRANGERS:
            wrong.append(shown)
    return wrong


def test_imports_run_downward():
    arrows = _arrows(_modules(ROOT))
    assert ("launch", "runs") in arrows  # the arrows are found at all
    assert not _wrong(arrows)


def _imported_at_start(module: str, modules: Mapping[str, Path]) -> set[str]:
    """Names of the modules that importing this one imports, ours followed to their own imports."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        waiting += [name.rpartition(".")[0]] if "." in name else []
        if name in modules:
            for node in ast.parse(modules[name].read_text(encoding="utf-8")).body:
                if isinstance(node, ast.Import):
                    waiting += [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module:
                    submodules = [f"{node.module}.{alias.name}" for alias in node.names]
                    waiting += [node.module, *(known for known in submodules if known in modules)]
    return found


SLOW = {"jax", "numpy", "scipy", "flax", "matplotlib", "lm_jax.models"}
PROGRAMS = [path.stem for path in (ROOT / "launch").glob("*.py") if "__main__" in path.read_text()]


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_a_program_lists_its_flags_without_slow_imports(program):
    imported = _imported_at_start(f"launch.{program}", _modules(ROOT))
    assert "absl" in imported and "lm_jax.errors" in imported  # the imports are followed
    assert not imported & SLOW


def test_importing_lm_jax_imports_nothing_slow():
    imported = _imported_at_start("lm_jax", _modules(ROOT))
    assert "typing" in imported and not imported & SLOW


def test_every_room_has_a_floor():
    rooms = {_room(module) for module in _modules(ROOT)}
    assert not rooms - FLOOR_OF.keys()


@pytest.mark.parametrize(
    "arrow", [("models", "training"), ("data", "models"), ("telemetry", "runs"), ("build", "costs")]
)
def test_an_arrow_that_runs_up_is_found(arrow):
    assert _wrong({arrow: "shown"}) == ["shown"]


def test_only_models_and_interop_know_flax_modules():
    knowing = {
        _room(module)
        for module, path in _modules(ROOT).items()
        if any(name.startswith("flax.linen") or name == "flax" for name in _imports(path))
    }
    assert knowing <= {"models", "interop", "parallel"}
