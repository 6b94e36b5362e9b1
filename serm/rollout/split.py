"""Which users see the challenger: serving splits by it, and rollout checks what was served against it."""

from __future__ import annotations

import hashlib
import hmac
from typing import Literal

Variant = Literal["champion", "challenger"]


def variant(user_id: str, experiment: str, percent: float) -> Variant:
    """Return the variant that serves ``user_id`` when the challenger has ``percent`` % (0 to 100) of the users.

    A user's place in 0..100 is a keyed hash (HMAC-SHA256) of the user; those below ``percent`` see the challenger.
    So a user who sees it keeps seeing it as the percentage grows. The key is the ``experiment``'s name: another
    experiment places its users independently.
    """
    digest = hmac.digest(experiment.encode(), user_id.encode(), hashlib.sha256)
    place = int.from_bytes(digest[:8], "big") * 100 / 2**64
    return "challenger" if place < percent else "champion"
