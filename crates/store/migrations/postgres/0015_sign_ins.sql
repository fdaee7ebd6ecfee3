-- The name of the operator who signed in with an identity provider. Null if a token was used.
ALTER TABLE sessions ADD COLUMN operator text;
-- The name of the operator in whose session the change was made. Null if nobody knows it.
ALTER TABLE audit ADD COLUMN operator text;

-- Sign-ins that wait for the identity provider. Times are UTC milliseconds.
CREATE TABLE sign_ins (
    -- SHA-256 of the cookie's secret.
    hash bytea NOT NULL PRIMARY KEY,
    -- What the provider's reply must bring back.
    state text NOT NULL,
    -- What the ID token must contain.
    nonce text NOT NULL,
    -- Proves to the provider that the code comes back to whoever asked for it.
    verifier text NOT NULL,
    -- The page to show afterwards.
    next text,
    expires_at bigint NOT NULL
);
CREATE INDEX sign_ins_by_expiry ON sign_ins (expires_at);
