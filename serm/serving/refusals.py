"""Why a request gets no scores, and what its client is told: a status, a reason, and nothing of its texts."""

from __future__ import annotations

import logging
import traceback
from dataclasses import dataclass

from kserve.errors import InvalidInput

_LOG = logging.getLogger(__name__)


class TooLarge(ValueError):
    """More than is taken in one request."""


class UnknownModel(LookupError):
    """No model has the name that was asked for."""


class Busy(Exception):
    """The queue is full."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"{retry_after} s")
        self.retry_after = retry_after
        """Seconds after which what waits now should be done."""


class Late(Exception):
    """The request waited as long as it may."""


class Unavailable(Exception):
    """A predictor behind the transformer gives no scores; the words of the error say why, and go to the log."""


class Stopping(Exception):
    """The server ends, and does not take this request or cannot finish it."""


@dataclass(frozen=True)
class Refusal:
    """What a client is told in the place of scores."""

    status: int
    """As HTTP has it; gRPC's codes follow from it."""
    reason: str
    retry_after: int | None = None
    """Seconds."""
    late: bool = False
    """Whether it waited as long as it may; gRPC has its own code for that, which clients do not try again at once."""


def refusal(error: Exception) -> Refusal:
    """Return what the client is told; what nobody foresaw is logged, without its words, which may be a searcher's."""
    match error:
        case InvalidInput():
            return Refusal(400, str(error))
        case UnknownModel():
            return Refusal(404, "No model has this name.")
        case TooLarge():
            return Refusal(413, str(error))
        case Busy():
            return Refusal(429, "The queue is full; ask again later.", error.retry_after)
        case Late():
            return Refusal(503, "The request waited as long as it may; ask again later.", 1, late=True)
        case Unavailable():
            _LOG.error("serm: no scores: %s", error)
            return Refusal(503, "The model does not answer; ask again later.", 1)
        case Stopping():
            return Refusal(503, "The server is stopping; ask another one.", 1)
    where = "".join(traceback.format_tb(error.__traceback__))
    _LOG.error("A request failed with %s (its words are left out):\n%s", type(error).__name__, where)
    return Refusal(500, "The server failed on this request; its log says where.")
