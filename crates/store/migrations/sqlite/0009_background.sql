-- Background turns: from their creation until their events are no longer kept.
CREATE TABLE background_turns (
    id BLOB NOT NULL,
    project TEXT NOT NULL,
    -- As in responses, and 4 queued, 5 in progress.
    status INTEGER NOT NULL,
    -- Whether the client asked for a stream: only then are events logged.
    streamed INTEGER NOT NULL,
    -- Whether the finished response goes to responses, or stays here for a while.
    stored INTEGER NOT NULL,
    key_id TEXT,
    created_at INTEGER NOT NULL,
    deadline INTEGER NOT NULL,
    -- The request's body, and its headers that an upstream gets; empty once the turn has ended.
    request BLOB NOT NULL,
    headers TEXT NOT NULL,
    -- The input items, if references among them were replaced.
    input BLOB,
    -- The response as it was queued, then the finished one if it is not in responses, else empty.
    response BLOB NOT NULL,
    owner BLOB NOT NULL,
    -- Counts the owners: a write of an earlier one is rejected.
    epoch INTEGER NOT NULL,
    lease_until INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    cancel_requested INTEGER NOT NULL,
    -- The number of the last event in the log; -1 for none.
    last_sequence INTEGER NOT NULL,
    -- Where the upstream itself runs the turn in the background.
    upstream_account TEXT,
    upstream_id TEXT,
    ended_at INTEGER,
    kept_until INTEGER,
    PRIMARY KEY (id, project)
) STRICT;

CREATE INDEX background_turns_by_lease ON background_turns (lease_until) WHERE ended_at IS NULL;
CREATE INDEX background_turns_queued ON background_turns (project) WHERE status = 4;
CREATE INDEX background_turns_by_end ON background_turns (kept_until) WHERE kept_until IS NOT NULL;

-- The events of streamed background turns, many in a row, as server-sent events.
CREATE TABLE background_events (
    id BLOB NOT NULL,
    project TEXT NOT NULL,
    first_sequence INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL,
    bytes BLOB NOT NULL,
    PRIMARY KEY (id, project, first_sequence)
) STRICT;
