"""The reference of params.yaml, from the models in serm/settings and the docstrings of their fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import griffe

from serm.settings import Settings

UNITS = {
    "seconds": "seconds",
    "minutes": "minutes",
    "hours": "hours",
    "days": "days",
    "mb": "MB",
    "gb": "GB",
    "percent": "percent",
    "share": "share, 0 to 1",
    "characters": "characters",
    "chars": "characters",
    "tokens": "tokens",
    "pairs": "pairs",
    "queries": "queries",
    "impressions": "impressions",
    "epochs": "passes",
    "steps": "steps",
    "users": "users",
    "cycles": "cycles",
}
"""By the last word of a field's name that names a unit."""
INTRODUCTION = """# params.yaml

Every field of a workspace's `params.yaml`: `serm init` writes those that differ from workspace to workspace, all others
have the default that stands here. An unknown field, a value out of its bounds, YAML's `yes` for a number or a key that
is there twice is an error that names the line or the field. All numbers are finite. Only `cycle` must be there.

This page is written from `serm/settings` at each build.
"""


def page() -> str:
    """Return the page as Markdown."""
    schema = Settings.model_json_schema()
    meanings = _meanings()
    parts = [INTRODUCTION]
    for section, of in schema["properties"].items():
        parts.append(f"## {section}\n")
        parts += _tables(_model(of), schema["$defs"], meanings, section)
    return "\n".join(parts)


def _tables(model: str, models: dict[str, Any], meanings: dict[str, dict[str, str]], path: str) -> list[str]:
    """Return the table of a model's fields, and behind it those of the models that its fields hold."""
    required = models[model].get("required", ())
    rows: list[str] = []
    inner: dict[str, list[str]] = {}
    for field, of in models[model]["properties"].items():
        held = _model(of)
        plain = held is None or "properties" not in models[held]
        if held and not plain:
            inner.setdefault(held, []).append(f"{path}.{field}" + ("[]" if "items" in json.dumps(of) else ""))
        kind, bound = _kind(of, models)
        default = "required" if field in required else _code(_default(of, plain))
        meaning = meanings[model].get(field) or (meanings[held or ""][""] if held in meanings else "")
        unit = next((UNITS[word] for word in reversed(field.split("_")) if word in UNITS), "")
        rows.append(f"| `{field}` | {kind} | {unit} | {bound} | {default} | {meaning} |")
    heading = f"### {path}\n\n{meanings[model]['']}\n" if "." in path else f"{meanings[model]['']}\n"
    table = "| field | type | unit | bound | default | meaning |\n|---|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
    deeper = [part for one, at in inner.items() for part in _tables(one, models, meanings, ", ".join(at))]
    return [heading, table, *deeper]


def _meanings() -> dict[str, dict[str, str]]:
    """Return for each model what its fields mean, and under ``""`` what it is."""
    package = griffe.load("serm.settings", search_paths=[str(Path(__file__).parents[2])])
    return {
        model.name: {
            "": _line(model.docstring),
            **{name: _line(field.docstring) for name, field in model.attributes.items()},
        }
        for module in package.modules.values()
        for model in module.classes.values()
    }


def _line(docstring: griffe.Docstring | None) -> str:
    text = " ".join(docstring.value.split()) if docstring else ""
    return text.replace("``", "`").replace("|", "\\|").replace("<", "&lt;")


def _model(of: dict[str, Any]) -> str | None:
    """Return the name of the model that a field is or holds."""
    found = [part for part in _walk(of) if "$ref" in part]
    return found[0]["$ref"].rpartition("/")[2] if found else None


def _walk(of: dict[str, Any]) -> list[dict[str, Any]]:
    inner = [*of.get("anyOf", ()), *of.get("prefixItems", ())]
    inner += [one for one in (of.get("items"), of.get("additionalProperties")) if isinstance(one, dict)]
    return [of, *(part for one in inner for part in _walk(one))]


def _kind(of: dict[str, Any], models: dict[str, Any]) -> tuple[str, str]:
    """Return a field's type and its bounds, in words."""
    if "$ref" in of:
        referred = models[of["$ref"].rpartition("/")[2]]
        return ("section", "") if "properties" in referred else _kind(referred, models)
    if "anyOf" in of:
        kinds, bounds = zip(*(_kind(one, models) for one in of["anyOf"]), strict=True)
        return " or ".join(kinds), ", ".join(filter(None, bounds))
    if "enum" in of or "const" in of:
        return "one of", ", ".join(f"`{value}`" for value in of.get("enum", [of.get("const")]))
    name = {"string": "text", "boolean": "true or false", "integer": "whole number", "array": "list"}
    kind = of.get("format") or name.get(of.get("type", ""), of.get("type", ""))
    if of.get("type") == "array":
        inner, bound = _kind(of["items"], models) if of.get("items") else ("", "")
        most = f"at most {of['maxItems']}" if "maxItems" in of and "minItems" not in of else ""
        few = f"at least {of['minItems']}" if "minItems" in of else ""
        return f"list of {inner}" if inner else "list", ", ".join(filter(None, (bound, few, most)))
    return kind, _bound(of)


def _bound(of: dict[str, Any]) -> str:
    low = (
        f"≥ {of['minimum']:,}"
        if "minimum" in of
        else f"> {of['exclusiveMinimum']:,}"
        if "exclusiveMinimum" in of
        else ""
    )
    high = (
        f"≤ {of['maximum']:,}"
        if "maximum" in of
        else f"< {of['exclusiveMaximum']:,}"
        if "exclusiveMaximum" in of
        else ""
    )
    text = f"{of.get('minLength', 0)} to {of['maxLength']} characters" if "maxLength" in of else ""
    return ", ".join(filter(None, (low, high, text, _code(of.get("pattern")))))


def _default(of: dict[str, Any], plain: bool) -> str | None:
    if "default" not in of or (not plain and isinstance(of["default"], dict)):
        return None
    return json.dumps(of["default"], ensure_ascii=False)


def _code(text: str | None) -> str:
    return f"`{text}`".replace("|", "\\|") if text else ""
