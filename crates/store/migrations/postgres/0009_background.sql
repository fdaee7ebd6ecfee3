-- Background turns: from their creation until their events are no longer kept.
CREATE TABLE background_turns (
    id uuid NOT NULL,
    project text COLLATE "C" NOT NULL,
    -- As in responses, and 4 queued, 5 in progress.
    status bigint NOT NULL,
    -- Whether the client asked for a stream: only then are events logged.
    streamed bigint NOT NULL,
    -- Whether the finished response goes to responses, or stays here for a while.
    stored bigint NOT NULL,
    key_id text,
    created_at bigint NOT NULL,
    deadline bigint NOT NULL,
    -- The request's body, and its headers that an upstream gets; empty once the turn has ended.
    request bytea NOT NULL,
    headers text NOT NULL,
    -- The input items, if references among them were replaced.
    input bytea,
    -- The response as it was queued, then the finished one if it is not in responses, else empty.
    response bytea NOT NULL,
    owner uuid NOT NULL,
    -- Counts the owners: a write of an earlier one is rejected.
    epoch bigint NOT NULL,
    lease_until bigint NOT NULL,
    attempts bigint NOT NULL,
    cancel_requested bigint NOT NULL,
    -- The number of the last event in the log; -1 for none.
    last_sequence bigint NOT NULL,
    -- Where the upstream itself runs the turn in the background.
    upstream_account text,
    upstream_id text,
    ended_at bigint,
    kept_until bigint,
    PRIMARY KEY (id, project)
);

CREATE INDEX background_turns_by_lease ON background_turns (lease_until) WHERE ended_at IS NULL;
CREATE INDEX background_turns_queued ON background_turns (project) WHERE status = 4;
CREATE INDEX background_turns_by_end ON background_turns (kept_until) WHERE kept_until IS NOT NULL;

-- The events of streamed background turns, many in a row, as server-sent events.
CREATE TABLE background_events (
    id uuid NOT NULL,
    project text COLLATE "C" NOT NULL,
    first_sequence bigint NOT NULL,
    last_sequence bigint NOT NULL,
    bytes bytea NOT NULL,
    PRIMARY KEY (id, project, first_sequence)
);
