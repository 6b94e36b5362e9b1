-- Records of a catalogue (RECORDS) -> ``opened``: each one's document as JSON, out of elasticdump's and search results'
-- ``_source`` and bulk updates' ``doc``, and the id that stands outside of it.
CREATE TEMP MACRO opened(records) AS TABLE
WITH checked AS (
    SELECT delivery, line, action, text, CASE
        WHEN reason IS NOT NULL THEN reason
        WHEN NOT json_valid(text) THEN 'not a whole JSON object on one line'
        WHEN json_type(text) <> 'OBJECT' THEN 'not a JSON object'
    END AS unreadable
    FROM query_table(records)
), readable AS (
    SELECT delivery, line, action, unreadable, CASE WHEN unreadable IS NULL THEN text::JSON END AS text FROM checked
)
SELECT delivery, line, unreadable, CASE
        WHEN json_type(text, '$._source') = 'OBJECT' THEN text -> '$._source'
        WHEN action LIKE '%"update"%' AND json_type(text, '$.doc') = 'OBJECT' THEN text -> '$.doc'
        ELSE text
    END AS document,
    coalesce(action -> '$.*._id' -> 0, text -> '$._id') AS outer_id
FROM readable;

CREATE TEMP MACRO trimmed(text) AS trim(text, E' \t\r\n\f' || chr(11));

-- A JSON value as text: lists of texts joined, NULL where it is of another type; what is missing is empty.
CREATE TEMP MACRO text_of(value, between) AS CASE coalesce(json_type(value), 'NULL')
    WHEN 'NULL' THEN ''
    WHEN 'OBJECT' THEN NULL
    WHEN 'ARRAY' THEN CASE
        WHEN len(list_filter(json_extract(value, '$[*]'), lambda one: json_type(one) IN ('OBJECT', 'ARRAY'))) = 0
        THEN array_to_string(list_filter(json_extract_string(value, '$[*]'), lambda one: trimmed(one) <> ''), between) END
    ELSE json_extract_string(value, '$')
END;

-- Spaces do no harm in a text, other control characters do.
CREATE TEMP MACRO has_control(text) AS regexp_matches(text, '[\x00-\x08\x0e-\x1f\x7f]');

-- ``opened`` -> DOCUMENTS with where each stands and the reason why it is none. $paths: of id, title, locale, date, then
-- of the fields that make the body; an empty path is no field. $used: what is no attribute.
CREATE TEMP MACRO documents(records, paths, used, outer_id_first, all_locale, max_id, max_title, max_body) AS TABLE
WITH extracted AS (
    SELECT *, json_extract(document, paths) AS parts,
        CASE WHEN paths[1] <> '' AND outer_id_first THEN coalesce(outer_id, parts[1])
             WHEN paths[1] <> '' THEN parts[1] ELSE outer_id END AS id
    FROM opened(records)
), texts AS (
    SELECT *,
        -- A number that went through a table with gaps came out with .0.
        CASE WHEN json_type(id) IN ('OBJECT', 'ARRAY', 'BOOLEAN') THEN NULL
             ELSE regexp_replace(trimmed(text_of(id, '')), '^(\d+)\.0$', '\1') END AS doc_id,
        CASE WHEN paths[2] = '' THEN '' ELSE trimmed(text_of(parts[2], ' ')) END AS own_title,
        CASE WHEN paths[3] = '' THEN all_locale ELSE trimmed(text_of(parts[3], '')) END AS locale,
        CASE WHEN paths[4] = '' THEN '' ELSE trimmed(text_of(parts[4], '')) END AS date,
        list_transform(parts[5:], lambda part: text_of(part, E'\n')) AS bodies,
        try_cast(document AS MAP(VARCHAR, JSON)) AS fields
    FROM extracted
), joined AS (
    SELECT *,
        array_to_string(list_filter(list_transform(bodies, lambda one: trimmed(one)), lambda one: one <> ''), E'\n') AS body
    FROM texts
), dated AS (
    SELECT *,
        CASE WHEN own_title = '' THEN trimmed(split_part(body, E'\n', 1)[:200]) ELSE own_title END AS title,
        CASE WHEN date = '' THEN TIMESTAMPTZ '1970-01-01 00:00:00+00'
             WHEN regexp_full_match(date, '\d{12,13}') THEN make_timestamptz(date::BIGINT * 1000)
             WHEN regexp_full_match(date, '\d{9,10}') THEN make_timestamptz(date::BIGINT * 1000000)
             WHEN regexp_full_match(date, '\d{4}') THEN try_cast(date || '-01-01' AS TIMESTAMPTZ)
             ELSE try_cast(date AS TIMESTAMPTZ) END AS published_at
    FROM joined
)
SELECT delivery, line, doc_id, locale, title, body, published_at,
    map_from_entries(list_transform(
        list_filter(map_entries(fields), lambda entry: NOT list_contains(used, entry.key)),
        lambda entry: {'k': entry.key, 'v': json_extract_string(entry.value, '$')})) AS attributes,
    date = '' AS is_undated, own_title = '' AS is_titled_by_body,
    CASE
        WHEN unreadable IS NOT NULL THEN unreadable
        WHEN fields IS NULL THEN 'it has a field twice'
        WHEN doc_id IS NULL THEN 'its id is neither a text nor a number'
        WHEN doc_id = '' THEN 'it has no id'
        WHEN strlen(doc_id) > max_id THEN 'its id is longer than ' || max_id || ' bytes'
        WHEN regexp_matches(doc_id, '[\x00-\x1f\x7f]') THEN 'its id has control characters'
        WHEN locale IS NULL THEN 'its locale is no text'
        WHEN locale = '' THEN 'it has no locale'
        WHEN strlen(locale) > 35 OR regexp_matches(locale, '[\x00-\x20\x7f]') THEN 'its locale is none'
        WHEN own_title IS NULL THEN 'its title is no text'
        WHEN list_contains(list_transform(bodies, lambda one: one IS NULL), true) THEN 'its body is no text'
        WHEN title = '' THEN 'it has no text'
        WHEN length(title) > max_title THEN 'its title is longer than ' || max_title || ' characters'
        WHEN length(body) > max_body THEN 'its body is longer than ' || max_body || ' characters'
        WHEN has_control(title) OR has_control(body) THEN 'its text has control characters'
        WHEN date IS NULL OR published_at IS NULL OR coalesce(year(published_at), 0) NOT BETWEEN 1000 AND 2999 THEN 'its date is none'
    END AS reason
FROM dated;
