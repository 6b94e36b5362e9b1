"""Which users see the challenger: serving splits by it, and rollout checks what was served against it."""

from __future__ import annotations

import hashlib
import hmac
from typing import Literal

Variant = Literal["champion", "challenger"]


def variant(user_id: str, experiment: str, percent: float) -> Variant:
    """Return the variant that serves ``user_id`` when the challenger has ``percent`` % (0 to 100) of the users.

    Those whose ``place`` in the ``experiment`` is below ``percent`` see the challenger. So a user who sees it keeps
    seeing it as the percentage grows.
    """
    return "challenger" if place(user_id, experiment) < percent else "champion"


def place(user_id: str, key: str) -> float:
    """Return a user's place, 0 to below 100: a keyed hash, the first 64 bits of HMAC-SHA256, most significant first.

    The key is a name, such as an experiment's: another one places its users independently. Any language can do it;
    docs/rollout.md has values to check against.
    """
    digest = hmac.digest(key.encode(), user_id.encode(), hashlib.sha256)
    # 53 bits are what a float holds: with all 64 the last few users of each 2^53 would round up to 100.
    return (int.from_bytes(digest[:8], "big") >> 11) * 100 / 2**53
