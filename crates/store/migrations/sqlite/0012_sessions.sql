-- Sessions of operators in the dashboard. Times are UTC milliseconds, ids the 16 bytes of their UUID.
CREATE TABLE sessions (
    id BLOB NOT NULL PRIMARY KEY,
    -- SHA-256 of the cookie's secret.
    hash BLOB NOT NULL UNIQUE,
    -- The name of the admin token that it was opened with.
    role TEXT NOT NULL,
    -- Where it was opened from.
    address TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
