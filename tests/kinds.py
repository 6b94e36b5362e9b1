"""What kinds of slow things a test file needs, read from what it imports: the markers of pyproject.toml."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
#: A kind, and the modules that a test of that kind imports, or a module within them.
KINDS = {
    "model": ("torch", "transformers", "openvino", "peft", "serm.relevance", "serm.training", "xllamacpp"),
    "server": (
        "kserve",
        "serm.serving.server",
        "serm.serving.predictor",
        "serm.serving.replay",
        "uvicorn",
        "xllamacpp",
    ),
    "jvm": ("pyspark",),
    "browser": ("playwright",),
    "local_llm": ("xllamacpp",),
}


@cache
def kinds(path: Path) -> frozenset[str]:
    """Return the kinds that the test file at ``path`` is of; none, and it is quick."""
    found = imported(path)
    of = frozenset(kind for kind, modules in KINDS.items() if any(_within(name, modules) for name in found))
    return of | {"e2e"} if path.parent == HERE / "e2e" else of


@cache
def imported(path: Path) -> frozenset[str]:
    """Return the names that a file imports, wherever in it, with those that the helpers of ``tests/`` import for it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom(module=str(module)):
                names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
            case ast.Call(func=ast.Attribute(attr="importorskip"), args=[ast.Constant(value=str(module)), *_]):
                names.add(module)
    helpers = [helper for name in names if (helper := HERE / f"{name}.py").is_file() and helper != path]
    return frozenset(names.union(*map(imported, helpers)))


def _within(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)
