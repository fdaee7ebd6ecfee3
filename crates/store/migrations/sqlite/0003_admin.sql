-- What proves to the admin API that the caller is an operator.
CREATE TABLE admin_tokens (
    name TEXT NOT NULL PRIMARY KEY,
    -- SHA-256 of the token.
    hash BLOB NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
