"""Secrets, which stand in the environment and nowhere else."""

from __future__ import annotations

import hashlib
import hmac
import os

from serm.errors import UserError

USER_KEY = "SERM_USER_KEY"


def user_key() -> bytes:
    """Return the secret that keys the users' hashes.

    Raises:
        UserError: it is not set, or shorter than 16 bytes.
    """
    key = os.environ.get(USER_KEY, "").encode()
    if len(key) < 16:
        raise UserError(
            f"{USER_KEY} is not set or shorter than 16 bytes, and there are raw user ids: "
            f"set it to a lasting secret, for example `export {USER_KEY}=$(openssl rand -hex 32)`."
        )
    return key


def hashed(value: str, key: bytes) -> str:
    """Return HMAC-SHA256 (RFC 2104) of ``value`` under ``key``, its first 32 hexadecimal digits: as ingest has it."""
    return hmac.digest(key, value.encode(), hashlib.sha256).hex()[:32]
