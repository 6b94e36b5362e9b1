"""Text from outside, made harmless where it stands: on a terminal, in HTML, in Markdown, beside scripts.

Queries, titles, locales, rationales and file names are written by strangers. Pages are rendered by ``templates``, so
that no template has to remember it, and carry a ``policy``, so that what slips through all the same does not run.
"""

from __future__ import annotations

import html
import re
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `serm --help` does not wait for it
    from jinja2 import Environment

#: Control characters but tab and newline, line separators, what turns the direction of writing, lone surrogates.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_MARKDOWN = re.compile(r"[\\`*_{}\[\]|~!$#]|(?<=:)/(?=/)|(?<=www)\.")
_ANGLES = str.maketrans("<>", "‹›")
#: Characters of one text on a page.
_LONGEST = 1000


def visible(text: str) -> str:
    r"""Return ``text`` with its control characters written out, ESC as ``\x1b``, so that they steer no terminal."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def is_storable(text: str) -> bool:
    """Say whether UTF-8 can hold ``text``: it has no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def markdown(text: str) -> str:
    """Return ``text`` on one line of Markdown that every renderer shows as it is: no HTML, emphasis, link or table."""
    one_line = " ".join(visible(text).split())
    return _MARKDOWN.sub(r"\\\g<0>", html.escape(one_line, quote=False))  # entities: not all take \< for text


def unmarked(text: str) -> str:
    """Return ``text`` with ‹› for its angle brackets and � for what is not seen, for tools that escape nothing.

    Its words and its length stay as they are.
    """
    return _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", text.translate(_ANGLES))


def policy(scripts: Sequence[str] = (), styles: Sequence[str] = (), **others: str) -> str:
    """Return a Content-Security-Policy that lets these inline scripts and styles work, and fetches nothing.

    Args:
        scripts: the text of each ``<script>`` element, byte for byte; none of it from outside.
        styles: the same of ``<style>``.
        others: further directives, such as ``connect_src="'self'"``; they replace those of the same name.
    """
    directives = {
        "default-src": "'none'",
        "script-src": _hashes(scripts),
        "style-src": _hashes(styles),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    directives |= {name.replace("_", "-"): value for name, value in others.items()}
    return "; ".join(f"{name} {value}" for name, value in directives.items())


def templates(package: str, escape_as: str = "html") -> Environment:
    """Return the templates of ``package``, in which each text is escaped ("html" or "markdown") and bounded.

    A template that names a value that it was not given is an error (``jinja2.UndefinedError``).
    """
    import jinja2
    from markupsafe import Markup

    escape = markdown if escape_as == "markdown" else visible  # autoescape does HTML's part

    def written(value: object) -> object:
        if not isinstance(value, str) or isinstance(value, Markup):
            return value
        return escape(value if len(value) <= _LONGEST else value[:_LONGEST] + "…")

    return jinja2.Environment(
        loader=jinja2.PackageLoader(package, "."),
        autoescape=escape_as == "html",
        finalize=written,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def asset(package: str, name: str) -> str:
    """Return the text of a style or script that lies in ``package``, stripped, to stand in a page as it is."""
    return (files(package) / name).read_text(encoding="utf-8").strip()


def _hashes(elements: Sequence[str]) -> str:
    digests = (b64encode(sha256(element.encode()).digest()).decode() for element in elements)
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
