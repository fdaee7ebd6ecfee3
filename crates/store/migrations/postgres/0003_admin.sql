-- What proves to the admin API that the caller is an operator.
CREATE TABLE admin_tokens (
    name text COLLATE "C" NOT NULL PRIMARY KEY,
    -- SHA-256 of the token.
    hash bytea NOT NULL,
    created_at bigint NOT NULL
);
