"""SERM's own transformer: the experiment's file, which it reads again at SIGHUP. It splits by user."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from serm.atomic import write_text
from serm.errors import UserError
from serm.rollout.health import Health
from serm.rollout.split import Variant
from serm.rollout.traffic.backend import Conflict, State
from serm.rollout.traffic.options import parse
from serm.settings.section import Section


class TransformerOptions(Section):
    """``rollout.traffic_options`` where ``rollout.traffic`` is transformer."""

    experiment: str
    """The file that the transformer's ``--experiment`` names; fields other than name and percent stay."""
    pid_files: tuple[str, ...] = ()
    """Files that hold the process id of each transformer on this machine, to be told (SIGHUP); a process that is gone
    needs no telling."""


@contextmanager
def connect(options: Mapping[str, Any], namespace: str, service: str) -> Iterator[TransformerTraffic]:
    """Yield the backend of an experiment's file."""
    yield TransformerTraffic(parse(TransformerOptions, options))


class TransformerTraffic:
    """The backend."""

    def __init__(self, options: TransformerOptions) -> None:
        self._file = Path(options.experiment)
        self._pid_files = tuple(map(Path, options.pid_files))

    def read(self) -> State:
        """Return the split that the file asks for; without a file there is none."""
        found = self._content()
        percent = found.get("percent", 0)
        if not isinstance(percent, int | float) or isinstance(percent, bool) or not 0 <= percent <= 100:
            raise UserError(f"{self._file}: a percent of {percent!r} is none; mend it.")
        if percent != int(percent):
            raise UserError(f"{self._file}: {percent:g} % is no whole percentage, as a rollout sets; mend it.")
        return State(str(found.get("name", "")), int(percent))

    def set(self, experiment: str, percent: int, seen: State) -> State:
        """Write the file and tell the transformers, also where the file says so already: one may have missed it."""
        now = self.read()
        if (now.experiment, now.percent) != (experiment, percent):
            if (now.experiment, now.percent) != (seen.experiment, seen.percent):
                raise Conflict.of(str(self._file), now, seen)
            write_text(self._file, yaml.safe_dump(self.patch(experiment, percent, seen), allow_unicode=True))
        if untold := [told for pid_file in self._pid_files if (told := _tell(pid_file))]:
            raise UserError(" ".join(untold))
        return State(experiment, percent)

    def patch(self, experiment: str, percent: int, seen: State) -> dict[str, Any]:
        """Return the file's new content.

        Raises:
            UserError: the challenger is to get users, and they would see both models' documents on one page.
        """
        content = {**self._content(), "name": experiment, "percent": percent}
        require_groups(content, str(self._file))
        return content

    def health(self) -> Mapping[Variant, Health] | None:
        """Return None: a file knows nothing of requests."""
        return None

    def _content(self) -> dict[str, Any]:
        try:
            found = yaml.safe_load(self._file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(f"{self._file}: no readable experiment ({' '.join(str(error).split())[:200]}).") from error
        if not isinstance(found, dict):
            raise UserError(f"{self._file}: holds no experiment; expected name and percent.")
        return found


def require_groups(content: Mapping[str, Any], where: str) -> None:
    """Refuse an experiment whose challenger's group sees interleaved pages: its rows count for neither group.

    Raises:
        UserError: it is one, and the challenger has users.
    """
    if content.get("interleave") and content.get("percent"):
        raise UserError(
            f"{where}: interleave is true, so that the challenger's users would see both models' documents and count "
            "for no group; take it out before a rollout starts."
        )


def _tell(pid_file: Path) -> str:
    """Send SIGHUP, and return why that was not possible; whoever is gone reads the file when it starts again."""
    try:
        os.kill(int(pid_file.read_text(encoding="ascii")), signal.SIGHUP)
    except (FileNotFoundError, ProcessLookupError):
        return ""
    except (OSError, ValueError, OverflowError) as error:
        return f"{pid_file}: its transformer cannot be told to read the experiment ({error}); mend the file."
    return ""
