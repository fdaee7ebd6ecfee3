-- Credentials of clients. Times are UTC milliseconds.
CREATE TABLE keys (
    id BLOB NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    project TEXT NOT NULL,
    -- SHA-256 of the secret, and the secret's first characters, by which people tell it.
    hash BLOB NOT NULL,
    prefix TEXT NOT NULL,
    -- Patterns of the models that it may use, a JSON array; empty for any.
    models TEXT NOT NULL,
    -- What it may use how much of, a JSON object.
    limits TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER,
    last_used_at INTEGER,
    -- The secret before the latest rotation, and when it ends.
    previous_hash BLOB,
    previous_until INTEGER
) STRICT, WITHOUT ROWID;

-- Who changed what.
CREATE TABLE audit (
    at INTEGER NOT NULL,
    id BLOB NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    -- A JSON object.
    detail TEXT NOT NULL,
    PRIMARY KEY (at, id)
) STRICT, WITHOUT ROWID;

-- How often something has changed that every process keeps in memory: who sees another number reads it again.
CREATE TABLE changes (
    topic TEXT NOT NULL PRIMARY KEY,
    number INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
