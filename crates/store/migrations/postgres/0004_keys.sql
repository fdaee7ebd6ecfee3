-- Credentials of clients. Times are UTC milliseconds.
CREATE TABLE keys (
    id uuid NOT NULL PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE,
    project text COLLATE "C" NOT NULL,
    -- SHA-256 of the secret, and the secret's first characters, by which people tell it.
    hash bytea NOT NULL,
    prefix text NOT NULL,
    -- Patterns of the models that it may use, a JSON array; empty for any.
    models text NOT NULL,
    -- What it may use how much of, a JSON object.
    limits text NOT NULL,
    created_at bigint NOT NULL,
    expires_at bigint,
    revoked_at bigint,
    last_used_at bigint,
    -- The secret before the latest rotation, and when it ends.
    previous_hash bytea,
    previous_until bigint
);

-- Who changed what.
CREATE TABLE audit (
    at bigint NOT NULL,
    id uuid NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    target text NOT NULL,
    -- A JSON object.
    detail text NOT NULL,
    PRIMARY KEY (at, id)
);

-- How often something has changed that every process keeps in memory: who sees another number reads it again.
CREATE TABLE changes (
    topic text COLLATE "C" NOT NULL PRIMARY KEY,
    number bigint NOT NULL
);
