"""A section of params.yaml as flags of a server's command line: each field one, with its default."""

from __future__ import annotations

import argparse
from typing import Any, TypeVar

from pydantic import ValidationError

from serm.settings.section import Section

S = TypeVar("S", bound=Section)


def add(parser: argparse.ArgumentParser, section: type[Section], where: str) -> None:
    """Add a flag for each field of ``section``, which stands at ``where`` in params.yaml."""
    for name, field in section.model_fields.items():
        parser.add_argument(flag(name), default=field.default, help=f"{where}.{name} (default {field.default})")


def read(parser: argparse.ArgumentParser, section: type[S], options: dict[str, Any]) -> S:
    """Return the section that the options give; ends the process with what is wrong of them."""
    try:
        return section.model_validate({name: options[name] for name in section.model_fields})
    except ValidationError as error:
        wrong = error.errors()[0]
        parser.error(f"{flag(str(wrong['loc'][0]))}: {wrong['msg']}")


def flag(name: str) -> str:
    """Return the command line's name of a setting."""
    return f"--{name.replace('_', '-')}"
