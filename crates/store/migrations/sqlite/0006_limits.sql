-- What was used of each limit, and what turns hold of it while they run.
CREATE TABLE counters (
    -- Of whom: `key_…`, the id of a key, or `project:…`.
    scope TEXT NOT NULL,
    rule TEXT NOT NULL,
    -- UTC milliseconds; both are 0 for a limit that has no window.
    window_start INTEGER NOT NULL,
    window_end INTEGER NOT NULL,
    -- Requests, tokens or billionths of a US dollar, as the rule says.
    used INTEGER NOT NULL,
    held INTEGER NOT NULL,
    PRIMARY KEY (scope, rule, window_start)
) STRICT, WITHOUT ROWID;

CREATE INDEX counters_by_end ON counters (window_end);

-- A row for each turn that holds something.
CREATE TABLE reservations (
    -- The response's.
    id BLOB NOT NULL PRIMARY KEY,
    -- No turn runs longer.
    expires_at INTEGER NOT NULL,
    -- When its holds were given back, as it had expired. What the turn has used is counted even then, if it settles.
    swept_at INTEGER,
    -- A JSON array.
    holds TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX reservations_by_expiry ON reservations (expires_at);
