"""HAProxy (2.5 or later): a map of two lines that its configuration splits users by, changed live, without a reload.

The map's file holds the experiment's name, as the HMAC's key, and the threshold below which a user's place lies; both
change in one transaction of the runtime API. HAProxy computes ``serm.rollout.variant`` itself, so a user is split alike
here and there.
"""

from __future__ import annotations

import base64
import csv
import io
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serm.atomic import write_text
from serm.errors import UserError
from serm.rollout.health import Health
from serm.rollout.split import Variant
from serm.rollout.traffic.backend import Conflict, State
from serm.rollout.traffic.options import parse
from serm.settings.section import Positive, Section

_PLACES = 2**53
_LONGEST_ANSWER = 10_000_000


class HaproxyOptions(Section):
    """``rollout.traffic_options`` where ``rollout.traffic`` is haproxy."""

    socket: str
    """HAProxy's runtime API, ``stats socket PATH level admin``: the path of its Unix socket."""
    map: str
    """The map's file, as the configuration names it."""
    champion: str = "champion"
    """The backend of the configuration that the champion's servers stand in; its requests and errors are read."""
    challenger: str = "challenger"
    timeout_seconds: Positive = 5.0


@contextmanager
def connect(options: Mapping[str, Any], namespace: str, service: str) -> Iterator[Haproxy]:
    """Yield the backend; it opens a connection for each command."""
    yield Haproxy(parse(HaproxyOptions, options))


class Haproxy:
    """The backend. The map's file is what HAProxy starts with, its memory what is in force."""

    def __init__(self, options: HaproxyOptions) -> None:
        self._options = options

    def read(self) -> State:
        """Return the split in force in HAProxy's memory."""
        found = dict(
            line.split(" ", 2)[1:] for line in self._ask(f"show map {self._options.map}").splitlines() if " " in line
        )
        if "experiment" not in found or "threshold" not in found:
            raise UserError(
                f"{self._options.map}: HAProxy's map has no experiment or threshold; write the file with "
                "`serm rollout map` and restart it."
            )
        try:
            experiment = base64.b64decode(found["experiment"]).decode()
            percent = round(int(found["threshold"]) * 100 / _PLACES)
        except ValueError as error:
            raise UserError(
                f"{self._options.map}: HAProxy's map is none of SERM's ({error}); write it anew."
            ) from error
        return State(experiment, percent, found["threshold"] + " " + found["experiment"])

    def set(self, experiment: str, percent: int, seen: State) -> State:
        """Set the split in memory, in one transaction, and in the file.

        Less traffic goes to the memory first, so that a full disk cannot keep a challenger up; more goes to the file
        first, so that what is in force is what a restart brings.
        """
        now = self.read()
        if (now.experiment, now.percent) != (seen.experiment, seen.percent):
            raise Conflict.of(self._options.map, now, seen)
        steps = (self._keep, self._put)
        for step in steps if percent > now.percent else steps[::-1]:
            step(experiment, percent)
        then = self.read()
        if (then.experiment, then.percent) != (experiment, percent):
            raise UserError(f"{self._options.map}: HAProxy took the new map and shows another; look at its log.")
        return then

    def patch(self, experiment: str, percent: int, seen: State) -> Mapping[str, Any]:
        """Return the runtime API's command."""
        return {"socket": self._options.socket, "command": self._command(experiment, percent, "VERSION")}

    def health(self) -> Mapping[Variant, Health] | None:
        """Return the two backends' requests, and those that failed; no latency's percentiles.

        Failed are answers of 5xx, requests that had to be asked for again, and those that a backup server answered.
        """
        rows = list(csv.DictReader(io.StringIO(self._ask("show stat -1 6 -1").lstrip("# "))))
        names: dict[Variant, str] = {"champion": self._options.champion, "challenger": self._options.challenger}
        known = {row["pxname"] for row in rows}
        if missing := [name for name in names.values() if name not in known]:
            raise UserError(
                f"{self._options.socket}: HAProxy has no backend {missing[0]!r}; it has {', '.join(sorted(known))}."
            )
        return {side: _health([row for row in rows if row["pxname"] == name]) for side, name in names.items()}

    def _keep(self, experiment: str, percent: int) -> None:
        write_text(Path(self._options.map), lines(experiment, percent))

    def _put(self, experiment: str, percent: int) -> None:
        prepared = re.search(r"\d+", self._ask(f"prepare map {self._options.map}"))
        if prepared is None:
            raise UserError(
                f"{self._options.map}: HAProxy prepares no new version of the map; is it the configured one?"
            )
        version = prepared[0]
        self._ask(self._command(experiment, percent, version), silent=True)
        self._ask(f"commit map @{version} {self._options.map}", silent=True)

    def _command(self, experiment: str, percent: int, version: str) -> str:
        return f"add map @{version} {self._options.map} <<\n{lines(experiment, percent)}"

    def _ask(self, command: str, *, silent: bool = False) -> str:
        """Send a command of the runtime API; one that is to be ``silent`` answers nothing when it is done."""
        options = self._options
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(options.timeout_seconds)
                connection.connect(options.socket)
                connection.sendall(command.encode() + b"\n")
                connection.shutdown(socket.SHUT_WR)
                answer = bytearray()
                while part := connection.recv(65536):
                    answer += part
                    if len(answer) > _LONGEST_ANSWER:
                        raise UserError(f"{options.socket}: answers without end; is it HAProxy's runtime API?")
        except OSError as error:
            reason = error.strerror or f"no answer within {options.timeout_seconds:g} s"
            raise UserError(
                f"{options.socket}: HAProxy's runtime API does not answer ({reason}); start it, or mend "
                "rollout.traffic_options."
            ) from error
        told = answer.decode(errors="replace").strip()
        if (told and silent) or told.startswith(("Unknown", "Permission denied", "Can't")):
            raise UserError(f"{options.socket}: HAProxy refuses {command.split()[0]}: {' '.join(told.split())[:200]}.")
        return told


def lines(experiment: str, percent: int) -> str:
    """Return the map's text: users whose place is below ``percent`` see the challenger.

    From ``control`` on they are its control. The experiment's name is in base64, as HAProxy's ``hmac`` takes its key.
    """
    key = base64.b64encode(experiment.encode()).decode()
    return f"experiment {key}\nthreshold {threshold(percent)}\ncontrol {threshold(100 - percent)}\n"


def threshold(percent: int) -> int:
    """Return the least of the 2^53 places that ``serm.rollout.split.place`` does not put below ``percent``."""
    found = -(-percent * _PLACES // 100)
    while found > 0 and (found - 1) * 100 / _PLACES >= percent:  # where the float is rounded up
        found -= 1
    return found


def _health(rows: Sequence[Mapping[str, str]]) -> Health:
    def of(row: Mapping[str, str], *names: str) -> int:
        return sum(int(row.get(name) or 0) for name in names)

    whole = next(row for row in rows if row["svname"] == "BACKEND")
    backup = sum(of(row, "stot") for row in rows if row["svname"] != "BACKEND" and row.get("bck") == "1")
    return Health(of(whole, "req_tot"), of(whole, "hrsp_5xx", "wretr") + backup, None)
