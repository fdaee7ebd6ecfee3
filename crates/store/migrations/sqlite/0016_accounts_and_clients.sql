-- Sums over the turns of each account, for charts. Parts are those of usage_rollups, and rows come and go with the rows there.
CREATE TABLE account_rollups (
    part INTEGER NOT NULL,
    -- UTC milliseconds.
    starts_at INTEGER NOT NULL,
    account TEXT NOT NULL,
    turns INTEGER NOT NULL,
    failed_turns INTEGER NOT NULL,
    PRIMARY KEY (part, starts_at, account)
) STRICT, WITHOUT ROWID;

INSERT INTO account_rollups (part, starts_at, account, turns, failed_turns)
SELECT part, starts_at, account, sum(turns), sum(failed_turns)
FROM usage_rollups WHERE account <> '' GROUP BY part, starts_at, account;

-- Which clients use a key, by the name that they give themselves.
CREATE TABLE key_clients (
    key_id BLOB NOT NULL,
    client TEXT NOT NULL,
    -- UTC milliseconds.
    used_at INTEGER NOT NULL,
    PRIMARY KEY (key_id, client)
) STRICT, WITHOUT ROWID;
