"""A team's own params.yaml, and in it what ``serm init`` would write of what it leaves open."""

from __future__ import annotations

import re

import yaml

from serm.settings import document

_SECTION = re.compile(r"(?m)^(?=[A-Za-z_]+:)")


def with_sections(text: str, given: str, name: str) -> str:
    """Return the params.yaml ``given``, with the sections and fields of ``text`` that it does not have.

    Comments of both stay, but where a section of ``given`` that needs more fields is in braces.

    Args:
        text: of which each section is a line with its name, and a line a field, two blanks in.
        given: any params.yaml.
        name: of ``given``, for errors.
    """
    own = document.sections(given, name)
    head, *parts = _SECTION.split(text)
    ours = {part.partition(":")[0]: part.splitlines(keepends=True)[1:] for part in parts}
    more = {
        section: [line for line in fields if line.partition(":")[0].strip() not in (own.get(section) or {})]
        for section, fields in ours.items()
    }
    both = [section for section in own if more.get(section)]
    in_lines = bool(own) and all(re.search(rf"(?m)^{section}:", given) for section in own)
    if not in_lines or not all(_header(section).search(given) for section in both if own[section]):
        given = yaml.safe_dump(own, sort_keys=False, allow_unicode=True) if own else ""
    for section in both:
        empty = re.compile(rf"(?m)^{section}:.*\n?")
        given = _filled(given, section, more[section]) if own[section] else empty.sub("", given)
    rest = {section: fields for section, fields in more.items() if not own.get(section)}
    written = "".join(f"{section}:\n{''.join(fields)}" for section, fields in rest.items())
    return f"{head}{written}{given.rstrip()}\n"


def _header(section: str) -> re.Pattern[str]:
    return re.compile(rf"(?m)^{section}:[ \t]*(#.*)?\n")


def _filled(given: str, section: str, fields: list[str]) -> str:
    """Return ``given`` with more fields at the head of a section, as deep as its own are."""
    header = _header(section).search(given)
    assert header
    first = re.search(r"(?m)^([ ]+)[^ #\n]", given[header.end() :])
    depth = first[1] if first else "  "
    return given[: header.end()] + "".join(depth + field.lstrip() for field in fields) + given[header.end() :]
