-- Times are UTC milliseconds, durations microseconds, ids of responses the 16 bytes of their UUID, JSON is bytes.

-- Rows are appended and never moved: a UUIDv7 grows with time. The key begins with the id for the same reason: turns of
-- many projects then end in one page of the key's index instead of one page each.
CREATE TABLE responses (
    project TEXT NOT NULL,
    id BLOB NOT NULL,
    parent_id BLOB,
    conversation_id TEXT,
    account TEXT NOT NULL,
    boundary TEXT NOT NULL,
    upstream_id TEXT,
    model TEXT NOT NULL,
    -- 0 completed, 1 incomplete, 2 failed, 3 cancelled.
    status INTEGER NOT NULL,
    depth INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    -- The time of deletion for a deleted response, so that one index finds all that is to be purged.
    expires_at INTEGER,
    deleted_at INTEGER,
    input BLOB NOT NULL,
    -- Positions in `input` as a JSON array; null for none.
    referenced BLOB,
    output BLOB NOT NULL,
    -- The response object without its output, compressed.
    body BLOB NOT NULL,
    PRIMARY KEY (id, project)
) STRICT;

CREATE INDEX responses_by_parent ON responses (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX responses_by_expiry ON responses (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE items (
    project TEXT NOT NULL,
    item_id TEXT NOT NULL,
    response_id BLOB NOT NULL,
    -- Among the response's input and then output items.
    position INTEGER NOT NULL,
    PRIMARY KEY (item_id, project)
) STRICT, WITHOUT ROWID;

CREATE TABLE request_log (
    at INTEGER NOT NULL,
    response_id BLOB NOT NULL,
    project TEXT NOT NULL,
    account TEXT,
    model TEXT NOT NULL,
    transport TEXT NOT NULL,
    outcome TEXT NOT NULL,
    http_status INTEGER NOT NULL,
    code TEXT,
    depth INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    first_event_us INTEGER,
    PRIMARY KEY (at, response_id)
) STRICT, WITHOUT ROWID;
