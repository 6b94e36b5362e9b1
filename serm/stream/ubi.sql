-- Lines of UBI 1.0 to 1.3 logs -> ``parsed``, one row a line: its fate is the role that it plays, or quarantine with a
-- reason. Bulk action lines are no records: their fate is 'action'. A record delivered again, byte for byte, is a
-- duplicate. A CloudEvent is what its data is. KServe's logger tells what the transformer was asked in one event, which is
-- no record either, and what it answered in another with the same id: that is a query. Then -> ``records``, one row for each document that an event tells of, that a query returned without an
-- event that says so, and for each other event.
CREATE TEMP TABLE parsed AS
WITH checked AS (
    SELECT delivery, line, text, CASE
        WHEN reason IS NOT NULL THEN reason
        WHEN contains(text, chr(0)) OR contains(text, '\u0000') THEN 'holds a NUL byte'
        WHEN NOT json_valid(text) THEN 'not JSON'
        WHEN json_type(text) <> 'OBJECT' THEN 'not a JSON object'
    END AS unreadable
    FROM lines
), events AS (
    -- A CASE goes in order; with AND the engine may look into what is no JSON.
    SELECT *, CASE WHEN unreadable IS NOT NULL THEN false
                   WHEN contains(text, '"specversion"') THEN json_exists(text, '$.specversion')
                   ELSE false END AS is_event
    FROM checked
), unwrapped AS (
    SELECT delivery, line, unreadable, is_event,
        CASE WHEN is_event THEN text ->> '$.type' END AS kind,
        CASE WHEN is_event THEN text ->> '$.time' END AS told_at,
        CASE WHEN is_event THEN (text ->> '$.id') || ' ' || coalesce(text ->> '$.source', '') END AS event,
        CASE WHEN is_event THEN text ->> '$.component' = 'predictor' END AS is_predictors,
        CASE WHEN NOT is_event THEN text
             WHEN json_type(text, '$.data') = 'OBJECT' THEN (text -> '$.data')::VARCHAR
             ELSE coalesce(text ->> '$.data', try(decode(from_base64(text ->> '$.data_base64')))) END AS text
    FROM events
), readable AS (
    SELECT * REPLACE (CASE
            WHEN NOT is_event THEN unreadable
            WHEN text IS NULL OR NOT json_valid(text) THEN 'a CloudEvent whose data is not JSON'
            WHEN json_type(text) <> 'OBJECT' THEN 'a CloudEvent whose data is not a JSON object'
            WHEN contains(text, chr(0)) OR contains(text, '\u0000') THEN 'holds a NUL byte'
        END AS unreadable)
    FROM unwrapped
), opened AS (
    SELECT *,
        CASE WHEN unreadable IS NULL THEN md5_number(coalesce(event, '') || text) END AS content,
        CASE WHEN unreadable IS NULL THEN from_json(text, '{
            "index": "JSON", "create": "JSON", "action_name": "VARCHAR", "user_query": "VARCHAR", "query_id": "VARCHAR",
            "client_id": "VARCHAR", "user_id": "VARCHAR", "session_id": "VARCHAR", "timestamp": "VARCHAR",
            "message_type": "VARCHAR", "message": "VARCHAR", "query_attributes": {"locale": "VARCHAR",
                "serm": {"scores": "DOUBLE[]", "model_versions": "VARCHAR[]", "variants": "VARCHAR[]",
                         "hashed_ids": "BOOLEAN"}},
            "results": [{"id": "VARCHAR", "score": "DOUBLE", "model_version": "VARCHAR", "variant": "VARCHAR"}],
            "model_version": "VARCHAR", "variant": "VARCHAR", "locale": "VARCHAR", "from": "BIGINT",
            "query": "VARCHAR", "query_response_hit_ids": "VARCHAR[]", "query_response_object_ids": "VARCHAR[]",
            "query_response_objects_ids": "VARCHAR[]",
            "event_attributes": {"session_id": "VARCHAR", "object": {"object_id": "JSON"},
                                 "position": {"ordinal": "VARCHAR"}}}') END AS r
    FROM readable
), kinds AS (
    SELECT *, is_event AND r.user_query IS NULL AND r.action_name IS NULL AS is_loggers,
        coalesce(is_loggers AND (is_predictors OR kind = 'org.kubeflow.serving.inference.request'), false) AS is_asked,
        coalesce(is_loggers AND NOT is_asked AND kind = 'org.kubeflow.serving.inference.response'
                 AND r.results IS NOT NULL, false) AS is_answer
    FROM opened
), named AS (
    SELECT *, coalesce(r.user_query, CASE WHEN r.message_type = 'QUERY' THEN r.message END,
                       CASE WHEN is_asked THEN r.query END) AS typed,
        r.event_attributes.object.object_id AS object_id, r.event_attributes.position.ordinal AS ordinal,
        coalesce(r.query_response_hit_ids, r.query_response_object_ids, r.query_response_objects_ids,
                 CASE WHEN is_answer THEN list_transform(r.results, lambda one: one.id) END) AS hits,
        r.query_attributes.serm AS served
    FROM kinds
), fields AS (
    SELECT delivery, line, unreadable, content, is_asked, is_answer,
        CASE WHEN is_asked THEN event END AS asks, CASE WHEN is_answer THEN event END AS answers,
        nullif(r.action_name, '') AS action,
        -- A text that begins above the space need not be trimmed.
        CASE WHEN typed >= '!' THEN typed WHEN trim(typed, E' \t\r\n') <> '' THEN typed END AS query,
        -- An event may leave its query's text out; one that says null or nothing was on a browse page.
        CASE WHEN query IS NOT NULL THEN false WHEN typed IS NOT NULL THEN true
             ELSE contains(text, '"user_query"') END AS is_blank,
        nullif(r.query_id, '') AS query_id,
        -- What is a keyed hash already begins with a NUL, as nothing else can.
        coalesce(CASE WHEN served.hashed_ids AND regexp_full_match(r.client_id, '[0-9a-f]{32}')
                      THEN chr(0) || r.client_id END,
                 nullif(r.client_id, ''), nullif(r.user_id, '')) AS user_id,
        coalesce(CASE WHEN served.hashed_ids AND regexp_full_match(r.session_id, '[0-9a-f]{32}')
                      THEN chr(0) || r.session_id END,
                 nullif(r.session_id, ''), nullif(r.event_attributes.session_id, '')) AS session_id,
        coalesce(try_cast(r.timestamp AS TIMESTAMPTZ),
                 CASE WHEN regexp_full_match(r.timestamp, '\d{12,14}')
                      THEN make_timestamptz(try_cast(r.timestamp AS BIGINT) * 1000) END,
                 try_cast(told_at AS TIMESTAMPTZ)) AS event_time,
        coalesce(r.query_attributes.locale, CASE WHEN is_asked THEN r.locale END) AS locale,
        CASE WHEN is_answer THEN list_transform(r.results, lambda one: one.score) ELSE served.scores END AS scores,
        CASE WHEN is_answer THEN list_transform(r.results, lambda one: coalesce(one.model_version, r.model_version))
             ELSE served.model_versions END AS model_versions,
        CASE WHEN is_answer THEN list_transform(r.results, lambda one: coalesce(one.variant, r.variant))
             ELSE served.variants END AS variants,
        CASE WHEN starts_with(object_id, '[') OR starts_with(object_id, '{') THEN NULL
             ELSE nullif(object_id ->> '$', '') END AS doc_id,
        CASE WHEN starts_with(object_id, '[')
             THEN list_filter(object_id ->> '$[*]', lambda id: id <> '') END AS doc_ids,
        -- UBI 1.0 has {"index": 2}.
        nullif(CASE WHEN NOT starts_with(ordinal, '{') THEN ordinal
                    WHEN json_valid(ordinal) THEN ordinal ->> '$.index' END, '') AS place,
        hits,
        -- OpenSearch's plugin keeps the request, whose ``from`` says where the page begins.
        CASE WHEN is_asked THEN r."from"
             WHEN len(hits) > 0 AND json_valid(r.query) THEN try_cast(r.query ->> '$.from' AS BIGINT) END AS hits_from,
        coalesce(r.index, r.create) IS NOT NULL AS is_action
    FROM named
), typed AS (
    SELECT * REPLACE (coalesce(doc_id, doc_ids[1]) AS doc_id, CASE WHEN len(doc_ids) > 1 THEN doc_ids END AS doc_ids,
                      least(greatest(coalesce(hits_from, 0), 0), $max_position)::INTEGER AS hits_from),
        try_cast(place AS DOUBLE) - $first_ordinal + 1 AS rank,
        rank = floor(rank) AND rank >= 1 AS is_rank,
        CASE
            WHEN is_asked OR (is_action AND action IS NULL AND query IS NULL) THEN 'action'
            WHEN is_answer THEN 'query'
            WHEN action IS NULL THEN CASE WHEN query IS NOT NULL THEN 'query' WHEN query_id IS NOT NULL THEN 'other' END
            WHEN query_id IS NULL THEN 'other'
            WHEN list_contains($shown, action) THEN 'shown'
            WHEN list_contains($clicked, action) THEN 'clicked'
            WHEN list_contains($disliked, action) THEN 'disliked'
            ELSE 'other'
        END AS role
    FROM fields
), ranked AS (
    SELECT *, CASE WHEN is_rank AND rank + coalesce(len(doc_ids), 1) - 1 <= $max_position
                   THEN rank::INTEGER END AS position
    FROM typed
), broken AS MATERIALIZED (
    SELECT *, CASE
        WHEN unreadable IS NOT NULL THEN unreadable
        WHEN role = 'action' THEN NULL
        WHEN role IS NULL THEN 'neither a query (user_query) nor an event (action_name)'
        WHEN event_time IS NULL THEN 'timestamp is missing or no time'
        WHEN role = 'query' AND query_id IS NULL THEN 'query_id is missing'
        WHEN role IN ('query', 'other') THEN NULL
        WHEN user_id IS NULL THEN 'client_id is missing'
        WHEN doc_id IS NULL THEN 'event_attributes.object.object_id is missing'
        WHEN position IS NOT NULL OR place IS NULL THEN NULL
        WHEN is_rank THEN 'event_attributes.position.ordinal is beyond stream.max_position = ' || $max_position
        ELSE 'event_attributes.position.ordinal is no whole number from ' || $first_ordinal
    END AS flaw
    FROM ranked
), asked AS (
    SELECT asks, arg_min(query, line) AS asked_query, arg_min(user_id, line) AS asked_user,
        arg_min(session_id, line) AS asked_session, arg_min(locale, line) AS asked_locale,
        arg_min(hits_from, line) AS asked_from
    FROM broken
    WHERE is_asked AND query IS NOT NULL
    GROUP BY asks
), queries AS (
    SELECT query_id, arg_min(query, (event_time, query)) AS known_query, min(locale) AS known_locale
    FROM (SELECT broken.* REPLACE (coalesce(query, asked_query) AS query, coalesce(locale, asked_locale) AS locale)
          FROM broken LEFT JOIN asked ON answers = asked.asks WHERE NOT is_asked)
    WHERE flaw IS NULL AND query_id IS NOT NULL AND (query IS NOT NULL OR action IS NULL OR is_blank)
    GROUP BY query_id
), again AS (
    -- Only records that have their content with another are numbered.
    SELECT delivery, line, row_number() OVER (PARTITION BY content ORDER BY delivery, line) > 1 AS is_again
    FROM broken SEMI JOIN (
        SELECT content FROM broken WHERE content IS NOT NULL AND role IS DISTINCT FROM 'action'
        GROUP BY content HAVING count(*) > 1
    ) USING (content)
), judged AS (
    SELECT broken.* REPLACE (
            coalesce(query, asked_query) AS query,
            coalesce(user_id, asked_user) AS user_id,
            coalesce(session_id, asked_session) AS session_id,
            CASE WHEN is_answer THEN coalesce(asked_from, 0) ELSE hits_from END AS hits_from),
        known_query, known_locale, role IN ('shown', 'clicked', 'disliked') AS is_on_document,
        CASE WHEN flaw IS NULL AND is_on_document AND queries.query_id IS NULL
             THEN 'no query text is known for its query_id'
             WHEN flaw IS NULL AND is_answer AND asked_query IS NULL
             THEN 'no request event with its id tells its query' ELSE flaw END AS reason, is_again
    FROM broken LEFT JOIN queries USING (query_id) LEFT JOIN again USING (delivery, line)
        LEFT JOIN asked ON answers = asked.asks
)
SELECT delivery, line, event_time, query_id, session_id, user_id, coalesce(known_locale, $locale) AS locale,
    known_query AS query, action, doc_id, doc_ids, position, reason,
    CASE WHEN query = known_query THEN hits[:$max_position - hits_from] END AS hits, hits_from, scores, model_versions, variants,
    CASE
        WHEN is_again THEN 'duplicate'
        WHEN reason IS NOT NULL THEN 'quarantined'
        WHEN is_on_document AND known_query IS NULL THEN 'other'  -- on a browse page
        ELSE role
    END AS fate
FROM judged;

CREATE TEMP VIEW on_documents AS
SELECT * FROM parsed WHERE fate IN ('shown', 'clicked', 'disliked') AND doc_ids IS NULL
UNION ALL
SELECT * REPLACE (unnest(doc_ids) AS doc_id, position + generate_subscripts(doc_ids, 1)::INTEGER - 1 AS position)
FROM parsed WHERE fate IN ('shown', 'clicked', 'disliked') AND doc_ids IS NOT NULL;

CREATE TEMP VIEW returned AS
SELECT * REPLACE (unnest(hits) AS doc_id, hits_from + generate_subscripts(hits, 1)::INTEGER AS position)
FROM parsed WHERE fate = 'query' AND len(hits) > 0;

-- Where the documents of events that do not say it stood.
CREATE TEMP TABLE places AS
SELECT query_id, doc_id, min(position) AS place
FROM (SELECT query_id, doc_id, position FROM on_documents WHERE position IS NOT NULL
      UNION ALL SELECT query_id, doc_id, position FROM returned WHERE doc_id <> '')
SEMI JOIN (SELECT query_id, doc_id FROM on_documents WHERE position IS NULL) USING (query_id, doc_id)
GROUP BY query_id, doc_id;

UPDATE parsed SET fate = 'quarantined', reason = 'event_attributes.position.ordinal is missing, and nothing else tells where its query showed the document'
WHERE (delivery, line) IN (
    SELECT (delivery, line) FROM on_documents ANTI JOIN places USING (query_id, doc_id) WHERE position IS NULL);

-- Who saw what was returned, if the query's own record does not say it.
CREATE TEMP TABLE owners AS
SELECT query_id, min(user_id) AS owner, min(session_id) AS session
FROM parsed SEMI JOIN (SELECT query_id FROM parsed WHERE fate = 'query' AND len(hits) > 0) USING (query_id)
WHERE fate NOT IN ('duplicate', 'quarantined')
GROUP BY query_id;

CREATE TEMP VIEW shown_by_return AS
SELECT * REPLACE (coalesce(user_id, owner) AS user_id, coalesce(session_id, session) AS session_id, 'shown' AS fate)
FROM returned JOIN owners USING (query_id)
    ANTI JOIN (SELECT query_id FROM parsed WHERE fate = 'shown') USING (query_id)
WHERE doc_id <> '' AND owner IS NOT NULL;

-- Which model scored what was returned, where SERM's transformer logged it.
CREATE TEMP TABLE scored AS
SELECT query_id, doc_id, arg_min(score, (event_time, line)) AS score,
    arg_min(model_version, (event_time, line)) AS model_version, arg_min(variant, (event_time, line)) AS variant
FROM (SELECT query_id, event_time, line, unnest(hits) AS doc_id, unnest(scores[:len(hits)]) AS score,
          unnest(model_versions[:len(hits)]) AS model_version, unnest(variants[:len(hits)]) AS variant
      FROM parsed WHERE fate = 'query' AND len(hits) > 0 AND model_versions IS NOT NULL)
WHERE doc_id IS NOT NULL
GROUP BY query_id, doc_id;

CREATE TEMP VIEW records AS
WITH told AS (
    SELECT *, position AS place FROM on_documents WHERE position IS NOT NULL
    UNION ALL SELECT on_documents.*, place FROM on_documents JOIN places USING (query_id, doc_id) WHERE position IS NULL
    UNION ALL SELECT * EXCLUDE (owner, session), position FROM shown_by_return
    UNION ALL SELECT *, position FROM parsed WHERE fate = 'other'
)
SELECT delivery, fate AS role, event_time, query_id, session_id, user_id, locale, query, doc_id, place AS position,
    score, model_version, variant
FROM told LEFT JOIN scored USING (query_id, doc_id);
