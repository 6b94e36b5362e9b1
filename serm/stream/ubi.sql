-- Lines of UBI 1.x logs -> one row a record, each with the role it plays or the reason why it is in quarantine.
-- Bulk action lines are no records: their fate is 'action'. A record delivered again, byte for byte, is a duplicate.
CREATE TEMP TABLE parsed AS
WITH checked AS (
    SELECT delivery, line, text, CASE
        WHEN reason IS NOT NULL THEN reason
        WHEN contains(text, chr(0)) OR contains(text, '\u0000') THEN 'holds a NUL byte'
        WHEN NOT json_valid(text) THEN 'not JSON'
        WHEN json_type(text) <> 'OBJECT' THEN 'not a JSON object'
    END AS unreadable
    FROM lines
), opened AS (
    SELECT delivery, line, unreadable, CASE WHEN unreadable IS NULL THEN md5_number(text) END AS content,
        CASE WHEN unreadable IS NULL THEN from_json(text, '{
            "index": "JSON", "create": "JSON", "action_name": "VARCHAR", "user_query": "VARCHAR", "query_id": "VARCHAR",
            "client_id": "VARCHAR", "user_id": "VARCHAR", "session_id": "VARCHAR", "timestamp": "VARCHAR",
            "message_type": "VARCHAR", "message": "VARCHAR", "query_attributes": {"locale": "VARCHAR"},
            "event_attributes": {"session_id": "VARCHAR", "object": {"object_id": "VARCHAR"},
                                 "position": {"ordinal": "VARCHAR"}}}') END AS r
    FROM checked
), fields AS (
    SELECT delivery, line, unreadable, content,
        nullif(r.action_name, '') AS action,
        coalesce(r.user_query, CASE WHEN r.message_type = 'QUERY' THEN r.message END) AS query,
        nullif(r.query_id, '') AS query_id,
        coalesce(nullif(r.client_id, ''), nullif(r.user_id, '')) AS user_id,
        coalesce(nullif(r.session_id, ''), nullif(r.event_attributes.session_id, '')) AS session_id,
        coalesce(try_cast(r.timestamp AS TIMESTAMPTZ),
                 CASE WHEN regexp_full_match(r.timestamp, '\d{12,14}')
                      THEN make_timestamptz(try_cast(r.timestamp AS BIGINT) * 1000) END) AS event_time,
        r.query_attributes.locale AS locale,
        nullif(r.event_attributes.object.object_id, '') AS doc_id,
        r.event_attributes.position.ordinal AS ordinal,
        coalesce(r.index, r.create) IS NOT NULL AS is_action
    FROM opened
), roles AS (
    SELECT *, CASE WHEN regexp_full_match(ordinal, '\d{1,6}') THEN try_cast(ordinal AS INTEGER) + 1 END AS position, CASE
        WHEN is_action AND action IS NULL AND query IS NULL THEN 'action'
        WHEN action IS NULL THEN CASE WHEN query IS NOT NULL THEN 'query' END
        WHEN list_contains($shown, action) THEN 'shown'
        WHEN list_contains($clicked, action) THEN 'clicked'
        WHEN list_contains($disliked, action) THEN 'disliked'
        ELSE 'other'
    END AS role
    FROM fields
), broken AS (
    SELECT *, CASE
        WHEN unreadable IS NOT NULL THEN unreadable
        WHEN role = 'action' THEN NULL
        WHEN role IS NULL THEN 'neither a query (user_query) nor an event (action_name)'
        WHEN event_time IS NULL THEN 'timestamp is missing or no time'
        WHEN role = 'query' AND query_id IS NULL THEN 'query_id is missing'
        WHEN role IN ('query', 'other') THEN NULL
        WHEN query_id IS NULL THEN 'an event on a document without a query_id'
        WHEN user_id IS NULL THEN 'client_id is missing'
        WHEN doc_id IS NULL THEN 'event_attributes.object.object_id is missing'
        WHEN position IS NULL THEN 'event_attributes.position.ordinal is no whole number from 0'
    END AS flaw
    FROM roles
), queries AS (
    SELECT query_id, arg_min(query, (event_time, query)) AS known_query, min(locale) AS known_locale
    FROM broken
    WHERE flaw IS NULL AND query_id IS NOT NULL AND query IS NOT NULL
    GROUP BY query_id
), judged AS (
    SELECT *, CASE WHEN flaw IS NULL AND role NOT IN ('query', 'other', 'action') AND known_query IS NULL
                   THEN 'no query text is known for its query_id' ELSE flaw END AS reason,
        content IS NOT NULL AND role IS DISTINCT FROM 'action' AND row_number() OVER (PARTITION BY content ORDER BY delivery, line) > 1 AS again
    FROM broken LEFT JOIN queries USING (query_id)
)
SELECT delivery, line, role, event_time, query_id, session_id, user_id, coalesce(known_locale, $locale) AS locale,
    known_query AS query, doc_id, position, reason,
    CASE WHEN again THEN 'duplicate' WHEN reason IS NOT NULL THEN 'quarantined' ELSE role END AS fate
FROM judged;
