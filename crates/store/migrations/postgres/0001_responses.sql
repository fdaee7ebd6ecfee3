-- Times are UTC milliseconds, durations microseconds, JSON is bytes. Names are compared byte by byte.

-- A UUIDv7 grows with time, and the key begins with it: turns of many projects then end in one page of the key's index
-- instead of one page each.
CREATE TABLE responses (
    id uuid NOT NULL,
    parent_id uuid,
    depth bigint NOT NULL,
    created_at bigint NOT NULL,
    -- The time of deletion for a deleted response, so that one index finds all that is to be purged.
    expires_at bigint,
    deleted_at bigint,
    -- 0 completed, 1 incomplete, 2 failed, 3 cancelled.
    status smallint NOT NULL,
    project text COLLATE "C" NOT NULL,
    conversation_id text COLLATE "C",
    account text NOT NULL,
    boundary text NOT NULL,
    upstream_id text,
    model text NOT NULL,
    input bytea NOT NULL,
    -- Positions in `input` as a JSON array; null for none.
    referenced bytea,
    output bytea NOT NULL,
    -- The response object without its output, compressed.
    body bytea NOT NULL,
    PRIMARY KEY (id, project)
);

ALTER TABLE responses ALTER COLUMN body SET STORAGE EXTERNAL;

CREATE INDEX responses_by_parent ON responses (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX responses_by_expiry ON responses (expires_at) WHERE expires_at IS NOT NULL;

-- Replicas look for what others have deleted.
CREATE INDEX responses_by_deletion ON responses (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE items (
    response_id uuid NOT NULL,
    -- Among the response's input and then output items.
    position bigint NOT NULL,
    project text COLLATE "C" NOT NULL,
    item_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (item_id, project)
);

CREATE TABLE request_log (
    at bigint NOT NULL,
    response_id uuid NOT NULL,
    depth bigint NOT NULL,
    input_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    duration_us bigint NOT NULL,
    first_event_us bigint,
    http_status bigint NOT NULL,
    project text NOT NULL,
    account text,
    model text NOT NULL,
    transport text NOT NULL,
    outcome text NOT NULL,
    code text,
    PRIMARY KEY (at, response_id)
);
