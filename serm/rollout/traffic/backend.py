"""The interface of a traffic backend, and how a name becomes one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from serm import entry_points
from serm.errors import UserError
from serm.rollout.health import Health
from serm.rollout.split import Variant


class Conflict(UserError):
    """Somebody else changed the traffic since it was read; nothing was changed."""

    @classmethod
    def of(cls, where: str, now: State, seen: State) -> Conflict:
        """Say what is in force and what was read."""
        return cls(
            f"{where}: the challenger has {now.percent} % of {now.experiment!r}, where {seen.percent} % of "
            f"{seen.experiment!r} was read; somebody else sets the traffic too."
        )


class NotReady(UserError):
    """The challenger's server is not ready, so that it gets no request whatever its share."""


@dataclass(frozen=True)
class State:
    """How the traffic is split."""

    experiment: str
    """By whose name users are placed; empty: by none yet."""
    percent: int
    """The challenger's, 0 to 100."""
    version: str = ""
    """The backend's own mark of this state; ``set`` refuses where another one is in force."""


@runtime_checkable
class Traffic(Protocol):
    """A traffic backend. Register a factory under the entry points' group ``serm.traffic``; see ``connect``."""

    def read(self) -> State:
        """Return the split in force.

        Raises:
            UserError: it cannot be told.
        """

    def set(self, experiment: str, percent: int, seen: State) -> State:
        """Give the challenger ``percent`` % of the experiment's users, and return the state then.

        All or nothing: after any error the split is the one before or the one asked for, and ``read`` tells which.
        To set what is in force already is no error.

        Raises:
            Conflict: the state is no longer ``seen``.
            UserError: it could not be done, or it is not known whether it was.
        """

    def patch(self, experiment: str, percent: int, seen: State) -> Mapping[str, Any]:
        """Return what ``set`` would send, as JSON, for people to read."""

    def health(self) -> Mapping[Variant, Health] | None:
        """Return requests and errors that both models' servers had so far, and their latency; None: it sees none.

        They only grow, but for a restart, which begins at 0; the controller takes what they grew by in a step.

        Raises:
            NotReady: the challenger's server takes no requests.
            UserError: it cannot be told.
        """


def connect(name: str, options: Mapping[str, Any], namespace: str, service: str) -> AbstractContextManager[Traffic]:
    """Return the backend ``name`` (``rollout.traffic``), as a context that closes its connections.

    Another package's factory is called as SERM's own are: ``factory(options, namespace, service)`` returns such a
    context.

    Args:
        name: haproxy, transformer, configmap, kserve, httproute, or one that an installed package
            registers in ``serm.traffic``.
        options: ``rollout.traffic_options``.
        namespace: of the InferenceService.
        service: its name.

    Raises:
        UserError: nobody registers the name, or its options are wrong.
    """
    from serm.rollout.traffic import configmap, haproxy, httproute, kserve, transformer

    own: dict[str, Callable[[Mapping[str, Any], str, str], AbstractContextManager[Traffic]]] = {
        "haproxy": haproxy.connect,
        "kserve": kserve.connect,
        "httproute": httproute.connect,
        "configmap": configmap.connect,
        "transformer": transformer.connect,
    }
    if name in own:
        return own[name](options, namespace, service)
    factory = entry_points.load("serm.traffic", [name], own, "rollout.traffic")[name]
    made: AbstractContextManager[Traffic] = factory(options, namespace, service)
    return made
