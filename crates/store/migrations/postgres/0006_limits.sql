-- What was used of each limit, and what turns hold of it while they run. Written twice a turn: room on its pages keeps new
-- versions of a row beside the old ones.
CREATE TABLE counters (
    -- Of whom: `key_…`, the id of a key, or `project:…`.
    scope text COLLATE "C" NOT NULL,
    rule text COLLATE "C" NOT NULL,
    -- UTC milliseconds; both are 0 for a limit that has no window.
    window_start bigint NOT NULL,
    window_end bigint NOT NULL,
    -- Requests, tokens or billionths of a US dollar, as the rule says.
    used bigint NOT NULL,
    held bigint NOT NULL,
    PRIMARY KEY (scope, rule, window_start)
) WITH (fillfactor = 50);

CREATE INDEX counters_by_end ON counters (window_end);

-- A row for each turn that holds something.
CREATE TABLE reservations (
    -- The response's.
    id uuid NOT NULL PRIMARY KEY,
    -- No turn runs longer.
    expires_at bigint NOT NULL,
    -- When its holds were given back, as it had expired. What the turn has used is counted even then, if it settles.
    swept_at bigint,
    -- A JSON array.
    holds text NOT NULL
);

CREATE INDEX reservations_by_expiry ON reservations (expires_at);
