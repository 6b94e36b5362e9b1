"""What a log may tell about a person: users and their searches become keyed hashes, queries are masked or withheld.

Nothing here logs a value.
"""

from __future__ import annotations

import hashlib

import ibis
import pyarrow as pa
from ibis.backends import BaseBackend
from ibis.expr.types import StringValue

from serm import engine as engines
from serm.settings import StreamSettings
from serm.stream import masking
from serm.stream.masking import KINDS

_BLOCK = 64  # SHA-256's block in bytes


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


def hash_of(value: StringValue, key: bytes) -> StringValue:
    """Return ``keyed_hash`` of ``value``, or what stands behind the NUL that a hash of before begins with."""
    return value.startswith("\0").ifelse(value.substr(1), keyed_hash(value, key))


def with_hashed_users(engine: BaseBackend, rows: ibis.Table, log: ibis.Table, key: bytes) -> ibis.Table:
    """Return ``rows`` with user_id as its keyed hash.

    ``log`` has a column ``user_id`` with every user of ``rows``: each is hashed once, however many rows are its, unless
    it is a hash already (``hash_of``).
    """
    users = log.select(raw_user_id="user_id").distinct()
    users = engines.hold(engine, "users", users.mutate(hashed_user_id=hash_of(users.raw_user_id, key)))
    joined = rows.left_join(users, rows.user_id == users.raw_user_id)
    return joined.mutate(user_id=joined.hashed_user_id).select(rows.columns)


def with_hashed_ids(rows: ibis.Table, key: bytes) -> ibis.Table:
    """Return ``rows`` with query_id and session_id as keyed hashes.

    Raw, they would lead a holder of the log from a row to its user.
    """
    return rows.mutate(query_id=keyed_hash(rows.query_id, key), session_id=hash_of(rows.session_id, key))


def with_like_sessions(rows: ibis.Table, key: bytes) -> ibis.Table:
    """Return ``rows`` with each session_id as a hash of before, so that raw and hashed ones are alike."""
    return rows.mutate(session_id="\0" + hash_of(rows.session_id, key))


def with_masked_queries(engine: BaseBackend, rows: ibis.Table, log: ibis.Table, settings: StreamSettings) -> ibis.Table:
    """Return ``rows`` with their queries masked and, for each of ``KINDS``, whether the query had it.

    ``log`` has a column ``query`` with every query of ``rows``: each is masked once, however many rows typed it, and
    only those leave the engine that may have something to mask.
    """
    # Held before it is filtered: DuckDB would push the filter below the distinct, and search the queries of all rows.
    typed = engines.hold(engine, "typed_queries", log.select(typed_query="query").distinct())
    candidates = typed.filter(typed.typed_query.re_search(masking.CANDIDATE))
    masked = [_masked(chunk, settings) for chunk in candidates.to_pyarrow()["typed_query"].chunks]
    personal = engines.load(engine, "personal_queries", pa.Table.from_batches(masked, _MASKED))
    joined = rows.left_join(personal, rows.query == personal.typed_query)
    found = {kind: joined[kind].fill_null(False) for kind in KINDS}
    query = ibis.coalesce(joined.masked_query, joined.query)
    return joined.mutate(query=query, **found).drop("typed_query", "masked_query")


_MASKED = pa.schema(
    [("typed_query", pa.string()), ("masked_query", pa.string()), *((kind, pa.bool_()) for kind in KINDS)]
)


def _masked(queries: pa.Array, settings: StreamSettings) -> pa.RecordBatch:
    """Those of ``queries`` that have something to mask, as ``_MASKED``."""
    typed = queries.to_pylist()
    masked = [(query, *masking.mask(query, settings.masked, settings.phone_regions)) for query in typed]
    rows = [(query, text, *(kind in found for kind in KINDS)) for query, text, found in masked if found]
    return pa.RecordBatch.from_pylist([dict(zip(_MASKED.names, row, strict=True)) for row in rows], _MASKED)


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
