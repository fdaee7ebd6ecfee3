-- How accounts do, as replicas and restarts have to know it. Times are UTC milliseconds.
CREATE TABLE accounts (
    name TEXT NOT NULL PRIMARY KEY,
    -- Tells the credential and the upstream that the rest, but for the pause, is about.
    identity TEXT NOT NULL,
    changed_at INTEGER NOT NULL,
    cooling_until INTEGER,
    cooling_reason TEXT,
    disabled_at INTEGER,
    paused_at INTEGER
) STRICT, WITHOUT ROWID;

-- Tokens that an authorization server has issued, by account.
CREATE TABLE credentials (
    account TEXT NOT NULL PRIMARY KEY,
    -- Tells the refresh token of the configuration that it all began with.
    origin TEXT NOT NULL,
    -- The tokens, encrypted; null before the first refresh.
    sealed BLOB,
    refreshed_at INTEGER,
    -- The process that may refresh them now, and until when.
    locked_by BLOB,
    locked_until INTEGER
) STRICT, WITHOUT ROWID;
