"""How far the world's state is: the file state.json of a workspace."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from serm.atomic import write_json
from serm.errors import UserError
from serm.layout import AFTER


@dataclass(frozen=True)
class Progress:
    """Which cycle the state is after; what is None is not in the file."""

    after: str | None = None
    champion: str | None = None
    """What that cycle did to the champion: ``promoted`` or ``kept``."""
    advancing: str | None = None
    """The cycle that an advance began to take into the state and has not ended: the state is half that cycle's."""

    @classmethod
    def read(cls, root: Path) -> Progress:
        """Return the progress of the workspace ``root``; of a new one, nothing.

        Raises:
            UserError: the file is not what ``write`` writes.
        """
        try:
            return cls.parse((root / AFTER).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"{root / AFTER}: cannot be read ({error}); bring it back with `git checkout -- {AFTER}`."
            ) from error

    @classmethod
    def parse(cls, text: str) -> Progress:
        """Return what the text of a state.json says; raises ValueError or TypeError where it is not one."""
        return cls(**json.loads(text))

    def write(self, root: Path) -> None:
        """Write the file, atomically."""
        write_json(root / AFTER, {name: value for name, value in asdict(self).items() if value is not None})

    def is_past(self, tag: str) -> bool:
        """Whether the state is after the cycle ``tag``, or a later one."""
        return self.after is not None and number(self.after) >= number(tag)


def number(tag: str) -> int:
    """Return the number of a cycle: 3 of cycle-0003."""
    return int(tag.rpartition("-")[2])
