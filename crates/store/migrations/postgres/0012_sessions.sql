-- Sessions of operators in the dashboard. Times are UTC milliseconds.
CREATE TABLE sessions (
    id uuid NOT NULL PRIMARY KEY,
    -- SHA-256 of the cookie's secret.
    hash bytea NOT NULL UNIQUE,
    -- The name of the admin token that it was opened with.
    role text COLLATE "C" NOT NULL,
    -- Where it was opened from.
    address text,
    created_at bigint NOT NULL,
    expires_at bigint NOT NULL
);
