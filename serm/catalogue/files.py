"""Which files a catalogue is, and what each of them holds, told by its content."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from serm.catalogue.fields import is_id
from serm.errors import UserError, os_fault
from serm.files import data_files
from serm.lines import BrokenOff, chunks

_TEXTS, _PACKED = (".json", ".jsonl", ".ndjson", ".csv", ".tsv"), ("", ".gz", ".zst", ".zstd")
SUFFIXES = (".parquet", *(name + packed for name in _TEXTS for packed in _PACKED))
_SEPARATORS = "\t,;|"


class Form(StrEnum):
    """How a file writes its documents."""

    LINES = "JSON lines"
    """An object a line; OpenSearch bulk and elasticdump too."""
    ARRAY = "a JSON array"
    TABLE = "a table"
    """CSV and the like, with a header."""
    PARQUET = "Parquet"
    EMPTY = "nothing"


@dataclass(frozen=True)
class CatalogueFile:
    """A file of a catalogue."""

    path: Path
    name: str
    """Below the catalogue's directory."""
    form: Form
    separator: str = ""
    """Of a table."""


def catalogue_files(catalogue: Path) -> list[CatalogueFile]:
    """Return the files of ``catalogue``, a file or a directory of them, in the order of their paths.

    Raises:
        UserError: there is none, one cannot be read or is of no form that is read here, or they are of several kinds.
    """
    if not catalogue.exists():
        raise UserError(f"{catalogue}: no such file or directory; give the catalogue's path.")
    paths = data_files(catalogue, SUFFIXES) if catalogue.is_dir() else [catalogue]
    if not paths:
        raise UserError(
            f"{catalogue}: no file in it ends with .parquet or {', '.join(_TEXTS)} (.gz, .zst); give its files' path."
        )
    files = [_told(path, str(path.relative_to(catalogue)) if path != catalogue else path.name) for path in paths]
    kinds = {file.form: file for file in files if file.form is not Form.EMPTY}
    if len(kinds.keys() - {Form.LINES, Form.ARRAY}) + bool(kinds.keys() & {Form.LINES, Form.ARRAY}) > 1:
        (one, other, *_) = kinds.values()
        raise UserError(
            f"{catalogue}: {one.name} is {one.form.value} and {other.name} {other.form.value}; keep one in a directory."
        )
    return files


def _told(path: Path, name: str) -> CatalogueFile:
    try:
        with path.open("rb") as file:
            if file.read(4) == b"PAR1":
                return CatalogueFile(path, name, Form.PARQUET)
        head = next(chunks(path), b"")
    except OSError as error:
        raise os_fault(error, path) or UserError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except BrokenOff as error:
        raise UserError(f"{path}: {error}; bring an undamaged copy.") from error
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path}: it is UTF-16; write it as UTF-8 (iconv -f UTF-16 -t UTF-8).")
    text = head.decode("utf-8-sig", "replace").lstrip("\ufeff \t\r\n")
    if text[:1] == "{":
        _require_lines(path, text)
        return CatalogueFile(path, name, Form.LINES)
    if text[:1] == "[":
        return CatalogueFile(path, name, Form.ARRAY)
    if not text:
        return CatalogueFile(path, name, Form.EMPTY)
    first = text.split("\n", 1)[0]
    separator = max(_SEPARATORS, key=first.count)
    if "\0" in first or not first.count(separator):
        raise UserError(
            f"{path}: neither JSON (objects a line, an array, OpenSearch bulk), Parquet, nor a table (CSV, TSV) of two "
            f"columns or more, by its first line, {json.dumps(first[:40], ensure_ascii=False)}; convert it to one."
        )
    return CatalogueFile(path, name, Form.TABLE, separator)


def _require_lines(path: Path, text: str) -> None:
    """Raise where a file is one object with all documents in it, and not an object a line; ``text`` is its head."""
    first, _, rest = text.partition("\n")
    try:
        whole = json.loads(first)
    except (ValueError, RecursionError):
        whole = None
    if isinstance(whole, dict):
        within = [name for name, value in whole.items() if _rows(value) and re.fullmatch(r"\w+", name)]
        if _rows((whole.get("hits") or {}).get("hits") if isinstance(whole.get("hits"), dict) else None):
            within = ["hits.hits"]
        elif rest.strip() or any(is_id(name) for name in whole):
            return
    elif rest.lstrip()[:1] in ('"', "}", "]"):
        within = _ARRAY.findall(text)
        within = ["hits.hits"] if within[:1] == ["hits"] else within
    else:
        return
    if within:
        raise UserError(
            f"{path}: it is one JSON object with its documents in {within[0]!r}; write one on each line, for example"
            f" jq -c '.{within[0]}[]' {shlex.quote(str(path))} > documents.jsonl"
        )
    if whole is None:
        raise UserError(
            f"{path}: its JSON goes over several lines; write a document on each line, for example jq -c ."
            f" {shlex.quote(str(path))} > documents.jsonl"
        )


_ARRAY = re.compile(r'"(\w+)"\s*:\s*\[\s*\{')


def _rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)
