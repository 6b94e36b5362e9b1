"""Which fields of a catalogue are a document's id, title, body, locale and date: as named, or as their names tell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from serm.errors import UserError

OUTER_ID = "_id"
"""The id of an OpenSearch bulk action, or beside ``_source``; the documents' own ``_id`` where there is none."""
#: The names that tell what a field is, in lower case, with ``_`` for what is no letter or digit. A row of names comes
#: before the next; two fields of one row are two readings, and the user is asked.
_IDS = (
    ("doc_id", "docid", "_id", "id", "document_id", "docno"),
    ("product_id", "item_id", "article_id", "asin", "sku", "uuid", "pid"),
)
_TITLES = (("title",), ("name", "product_title", "product_name", "headline"))
_BODIES = (
    *("body", "description", "text", "content", "abstract", "summary", "bullet_points", "long_description"),
    *("short_description", "product_description", "product_bullet_point", "overview"),
)
_LOCALES = (("locale", "product_locale"), ("lang", "language"))
_DATES = (
    ("published_at", "published", "date_published", "publish_date", "publication_date", "pub_date"),
    ("created_at", "created", "date_created", "release_date"),
)
_LOCALE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*")
_SHOWN = 20


@dataclass(frozen=True)
class Asked:
    """What the user says of the fields; None: it is guessed."""

    id: str | None = None
    title: str | None = None
    body: Sequence[str] | None = None
    """Joined by line ends in this order; empty: no body."""
    locale: str | None = None
    """A field's name, or the locale of all documents."""
    published_at: str | None = None
    """Empty: no date."""


@dataclass(frozen=True)
class Field:
    """A field: its name, and its path in a document (RFC 6901)."""

    name: str
    path: str


@dataclass(frozen=True)
class Fields:
    """Which field is what."""

    id: Field
    title: Field | None
    body: tuple[Field, ...]
    locale: Field | str
    """A text is the locale of all documents."""
    published_at: Field | None
    attributes: tuple[str, ...] = field(default=())
    """Names of the other fields, as far as the sample has them."""

    def told(self) -> dict[str, str]:
        """Return what each part of a document is read from, for people and machines."""
        return {
            "id": self.id.name,
            "title": self.title.name if self.title else "(none: the body's first line)",
            "body": ", ".join(one.name for one in self.body) or "(none)",
            "locale": self.locale.name if isinstance(self.locale, Field) else f"(all: {self.locale})",
            "published_at": self.published_at.name if self.published_at else "(none: unknown)",
            "attributes": ", ".join(self.attributes) or "(none)",
        }


def choose(catalogue: Path, names: Mapping[str, str], asked: Asked, locale: str) -> Fields:
    """Return the fields of ``catalogue``; ``names`` has the path of each field that its sample has, nested ones too.

    ``locale`` is that of the documents where no field and no option tells another.

    Raises:
        UserError: a field that was named is not there, or it is not clear which is the id or the text.
    """
    found = _Found(catalogue, names)
    identity = found.named("--id", asked.id) or found.guess("--id", "the id", _IDS)
    if identity is None:
        raise UserError(
            f"{catalogue}: no field of its documents is called as an id is; name it with --id; they have {found.all()}."
        )
    title = found.named("--title", asked.title) or found.guess("--title", "the title", _TITLES)
    if asked.body is None:
        body = found.known(_BODIES)
    else:
        body = tuple(one for name in asked.body if (one := found.named("--body", name)))
    body = tuple(one for one in body if one not in (identity, title))
    if title is None and not body:
        raise UserError(
            f"{catalogue}: no field of its documents is called as a text is; name it with --title or --body; they have "
            f"{found.all()}."
        )
    date = None if asked.published_at == "" else found.named("--published-at", asked.published_at)
    if asked.published_at is None:
        date = found.guess("--published-at", "the date", _DATES)
    where = found.locale(asked.locale) or locale
    used = {one.name for one in (identity, title, *body, where, date) if isinstance(one, Field)}
    return Fields(identity, title, body, where, date, tuple(name for name in found.top if name not in used))


class _Found:
    def __init__(self, catalogue: Path, names: Mapping[str, str]) -> None:
        self.catalogue, self.names = catalogue, names
        self.top = [name for name, path in names.items() if path.count("/") == 1]

    def all(self) -> str:
        return shown(self.top)

    def named(self, option: str, name: str | None) -> Field | None:
        """Return the field that an option names, None where it names none."""
        if name is None:
            return None
        if name not in self.names:
            raise UserError(f"{self.catalogue}: no field {name!r} ({option}); its documents have {self.all()}.")
        return Field(name, self.names[name])

    def guess(self, option: str, what: str, known: Sequence[Sequence[str]]) -> Field | None:
        """Return the field that is called so; where two are, it must be said which."""
        for row in known:
            fields = self.known(row)
            if len(fields) > 1:
                raise UserError(
                    f"{self.catalogue}: {' and '.join(repr(one.name) for one in fields[:3])} may each be {what}; say "
                    f"which with {option}."
                )
            if fields:
                return fields[0]
        return None

    def known(self, names: Sequence[str]) -> tuple[Field, ...]:
        """Return the fields at the top that are called so, in the order in which the documents have them."""
        plain = {name: re.sub(r"[^a-z0-9]+", "_", name.lower()) for name in self.top}
        return tuple(Field(name, self.names[name]) for name, told in plain.items() if told in names)

    def locale(self, asked: str | None) -> Field | str | None:
        if asked is None:
            return self.guess("--locale", "the locale", _LOCALES)
        if asked in self.names:
            return Field(asked, self.names[asked])
        if not _LOCALE.fullmatch(asked):
            raise UserError(
                f"{self.catalogue}: --locale {asked!r} is neither a field of its documents ({self.all()}) nor a locale "
                "such as en or pt-BR."
            )
        return asked


def is_id(name: str) -> bool:
    """Tell whether a field that is called so is an id's."""
    return any(re.sub(r"[^a-z0-9]+", "_", name.lower()) in row for row in _IDS)


def shown(names: Iterable[str]) -> str:
    """Return names for a message: 20 at most, each cut to 40 characters."""
    listed = list(names)
    return ", ".join(name[:40] for name in listed[:_SHOWN]) + (", ..." if len(listed) > _SHOWN else "")
