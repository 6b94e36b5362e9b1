"""What a log may tell about a person: users become keyed hashes, personal numbers in queries are masked.

All are ibis expressions over the engine's rows; nothing here logs a value.
"""

from __future__ import annotations

import hashlib
import os

import ibis
from ibis.backends import BaseBackend
from ibis.expr.types import StringValue

from serm import engine as engines
from serm.errors import UserError

USER_KEY = "SERM_USER_KEY"
KINDS = ("email", "card", "phone", "number")
"""What is masked in queries: ``number`` is a run of 7 digits or more that is neither a card nor a phone."""
_EMAIL = r"[^\s@<>]+@[^\s@<>]+\.[^\s@<>]+"
_NUMBER = r"[+(]?\p{Nd}(?:[ ().\-/]{0,2}\p{Nd}){6,}"
_SEPARATORS = r"[ ().\-/]"
_CARD_DIGITS = range(13, 20)
_BLOCK = 64  # SHA-256's block in bytes


def user_key() -> bytes:
    """Return the secret that keys the users' hashes.

    Raises:
        UserError: it is not set, or shorter than 16 bytes.
    """
    key = os.environ.get(USER_KEY, "").encode()
    if len(key) < 16:
        raise UserError(
            f"{USER_KEY} is not set or shorter than 16 bytes, and the log has raw user ids: "
            f"set it to a lasting secret, for example `export {USER_KEY}=$(openssl rand -hex 32)`."
        )
    return key


@ibis.udf.scalar.builtin(name="hex")  # type: ignore[untyped-decorator]
def _hex(text: str) -> str: ...  # type: ignore[empty-body]


@ibis.udf.scalar.builtin(name="unhex")  # type: ignore[untyped-decorator]
def _unhex(text: str) -> str: ...  # type: ignore[empty-body]  # bytes, but ibis only digests strings


def keyed_hash(value: StringValue, key: bytes) -> StringValue:
    """Return HMAC-SHA256 (RFC 2104) of ``value``'s UTF-8 under ``key``, its first 32 hexadecimal digits."""
    if len(key) > _BLOCK:
        key = hashlib.sha256(key).digest()
    padded = key.ljust(_BLOCK, b"\0")
    inner, outer = (bytes(byte ^ pad for byte in padded).hex() for pad in (0x36, 0x5C))
    digest = _unhex(ibis.literal(inner) + _hex(value)).hexdigest("sha256")
    return _unhex(ibis.literal(outer) + digest).hexdigest("sha256").left(32)


def with_hashed_users(engine: BaseBackend, rows: ibis.Table, log: ibis.Table, key: bytes) -> ibis.Table:
    """Return ``rows`` with user_id as its keyed hash.

    ``log`` has a column ``user_id`` with every user of ``rows``: each is hashed once, however many rows are its.
    """
    users = log.select(raw_user_id="user_id").distinct()
    users = engines.hold(engine, "users", users.mutate(hashed_user_id=keyed_hash(users.raw_user_id, key)))
    joined = rows.left_join(users, rows.user_id == users.raw_user_id)
    return joined.mutate(user_id=joined.hashed_user_id).select(rows.columns)


def with_masked_queries(engine: BaseBackend, rows: ibis.Table, log: ibis.Table) -> ibis.Table:
    """Return ``rows`` with their queries masked and, for each of ``KINDS``, whether the query had it.

    ``log`` has a column ``query`` with every query of ``rows``: each is masked once, however many rows typed it.
    """
    # Held before it is masked: DuckDB would push the filter below the distinct, and mask the queries of all rows.
    typed = engines.hold(engine, "typed_queries", log.select(typed_query="query").distinct())
    typed = typed.mutate(masked_query=masked(typed.typed_query))
    personal = engines.hold(engine, "personal_queries", typed.filter(typed.masked_query != typed.typed_query))
    joined = rows.left_join(personal, rows.query == personal.typed_query)
    found = {kind: has_mask(joined.masked_query, kind) & ~has_mask(joined.typed_query, kind) for kind in KINDS}
    query = ibis.coalesce(joined.masked_query, joined.query)
    return joined.mutate(query=query, **found).drop("typed_query", "masked_query")


def masked(query: StringValue) -> StringValue:
    """Return ``query`` with e-mail addresses and numbers of 7 digits or more as ``<email>``, ``<card>``, ...

    Numbers may have separators between their digits. All numbers of a query get the kind of its first.
    """
    without_mail = query.re_replace(_EMAIL, "<email>")
    number = without_mail.re_extract(_NUMBER, 0)
    digits = number.re_replace(_SEPARATORS, "")
    is_card = digits.length().between(_CARD_DIGITS[0], _CARD_DIGITS[-1]) & _luhn(digits)
    return ibis.cases(
        (~query.contains("@") & ~query.re_search(_NUMBER), query),  # nearly all, told with one search
        (~without_mail.re_search(_NUMBER), without_mail),
        (is_card, without_mail.re_replace(_NUMBER, "<card>")),
        (number == digits.re_replace(r"\+", ""), without_mail.re_replace(_NUMBER, "<number>")),
        else_=without_mail.re_replace(_NUMBER, "<phone>"),
    )


def has_mask(query: StringValue, kind: str) -> ibis.ir.BooleanValue:
    """Whether ``query`` has the mask of ``kind`` in it."""
    return query.contains(f"<{kind}>").fill_null(False)


def with_withheld(rows: ibis.Table, min_users: int) -> ibis.Table:
    """Return ``rows`` with ``withheld``: fewer than ``min_users`` users typed the query in the rows in time.

    Such a query may tell who typed it (k-anonymity), whether its row came in time or late. ``rows`` has locale,
    query, user_id and ``late``.
    """
    if min_users == 1:
        return rows.mutate(withheld=False)
    in_time = rows.filter(~rows.late)
    users = in_time.group_by("locale", "query").aggregate(users=in_time.user_id.nunique())
    common = users.filter(users.users >= min_users).select(common_locale="locale", common_query="query")
    joined = rows.left_join(common, [rows.locale == common.common_locale, rows.query == common.common_query])
    withheld = joined.query.notnull() & joined.common_query.isnull()
    return joined.mutate(withheld=withheld).drop("common_locale", "common_query")


def _luhn(digits: StringValue) -> ibis.ir.BooleanValue:
    """Whether the last of up to 19 digits is the check digit of the others (ISO/IEC 7812-1, annex B)."""
    # A digit's value is its place in the string: every second one counts double, 10 to 18 by their digit sum.
    values = (
        digits.reverse()
        .split("")
        .map(
            lambda digit, place: (place % 2 == 0).ifelse(
                ibis.literal("0123456789").find(digit), ibis.literal("0516273849").find(digit)
            )
        )
    )
    return values.sums() % 10 == 0
