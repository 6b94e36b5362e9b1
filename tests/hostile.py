"""What strangers write to run a script, load a picture, or steer a terminal; ``poison`` puts it into every text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from browser import Tab

#: Each sets ``pwned``, opens a dialog, or asks pwned.test for something, where it is taken for more than text.
PAYLOADS = (
    "</script><script>pwned=1</script>",
    "<svg onload=pwned=1>",
    "<img src=http://pwned.test/i onerror=pwned=1>",
    "\"' onfocus=pwned=1 autofocus tabindex=0 x='",
    "</title></textarea></style><script>alert(1)</script>",
    "<!--<script>",
    "<a href=javascript:alert(1)>l</a><b>bold</b><style>*{display:none}</style>",
    "<iframe srcdoc='<script>top.pwned=1</script>'></iframe><base href=http://pwned.test>",
    "&lt;script&gt;pwned=1&lt;/script&gt; &#60;svg onload=pwned=1&#62;",
    "[l](javascript:alert(1)) ![i](http://pwned.test/i) <http://pwned.test> https://pwned.test `` | **b** ~~s~~ $x$",
    "\n---\ntags: [pwned]\n---\n# pwned",
    "{{ 7 * 7 }} {% raw %} ${x} $x %s %(x)s \\u003cscript\\u003e",
    "\x1b]0;pwned\x07\x1b[31m\u202egnidaer\u2028\u2066",
)


def poison(text: str) -> str:
    """Return ``text`` with a payload after it, the same one each time, so that poisoned tables still join."""
    return f"{text} {PAYLOADS[sum(text.encode()) % len(PAYLOADS)]}"


def poisoned(table: pa.Table) -> pa.Table:
    """Return ``table`` with a payload in every text of it, the nested ones too."""
    return pa.Table.from_pylist([_poisoned(row) for row in table.to_pylist()], table.schema)


def _poisoned(value: Any) -> Any:
    if isinstance(value, str):
        return poison(value)
    if isinstance(value, dict):
        return {name: _poisoned(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_poisoned(one) for one in value)
    return value


def complaints(tab: Tab) -> list[str]:
    """Return what the page that is open did of what no text may make it do; a policy's refusals count too."""
    found = [*tab.complaints, *(url for url in tab.asked if "pwned" in url)]
    if tab.page.evaluate("typeof pwned") != "undefined" or "pwned.test" in tab.page.url:
        found.append("a script ran")
    bad = "a => a.name.startsWith('on') || /^(javascript:|http:..pwned)/.test(a.value)"
    found += tab.page.evaluate(
        f"[...document.querySelectorAll('*')].flatMap(e => [...e.attributes].filter({bad}).map(a => a.name + a.value))"
    )
    return found


def without_policy(page: Path) -> Path:
    """Write ``page`` again, beside it, without its policy: escaping alone must hold."""
    html = page.read_text(encoding="utf-8")
    start = html.index('<meta http-equiv="Content-Security-Policy"')
    bare = page.with_name(f"bare-{page.name}")
    bare.write_text(html[:start] + html[html.index(">", start) + 1 :], encoding="utf-8")
    return bare


def injected(page: Path) -> Path:
    """Write ``page`` again, beside it, with scripts and a picture let in: its policy alone must hold."""
    html = page.read_text(encoding="utf-8")
    broken = page.with_name(f"injected-{page.name}")
    scripts = '<script>pwned=1</script><img src=http://pwned.test/i onerror="pwned=1"><svg onload="pwned=1"></svg>'
    broken.write_text(html.replace("</body>", f"{scripts}<p id=injected></p></body>"), encoding="utf-8")
    return broken


#: What the steps write in words of their own: the page reads by them.
_OWN = {"result", "decision", "severity", "agreement", "model", "set", "gate"}
#: What is counted by a name from outside.
_BY_NAME = {"locales", "new_locales", "by_agent", "by_source", "by_origin", "by_locale", "judges", "datasets"}
_BY_NAME |= {"labels_by_agent", "labels_by_locale", "mined_by_agent", "columns"}


def poisoned_summary(value: Any, under: str = "") -> Any:
    """Return a step's JSON summary with a payload in every text and every name that it did not choose itself."""
    if isinstance(value, str):
        return value if under in _OWN else poison(value)
    if isinstance(value, list):
        return [poisoned_summary(one, under) for one in value]
    if isinstance(value, dict):
        named = under in _BY_NAME and all(isinstance(one, dict | int | float) for one in value.values())
        return {poison(name) if named else name: poisoned_summary(one, name) for name, one in value.items()}
    return value
