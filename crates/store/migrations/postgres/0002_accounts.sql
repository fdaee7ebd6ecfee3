-- How accounts do, as replicas and restarts have to know it. Times are UTC milliseconds.
CREATE TABLE accounts (
    name text COLLATE "C" NOT NULL PRIMARY KEY,
    -- Tells the credential and the upstream that the rest, but for the pause, is about.
    identity text NOT NULL,
    changed_at bigint NOT NULL,
    cooling_until bigint,
    cooling_reason text,
    disabled_at bigint,
    paused_at bigint
);

-- Tokens that an authorization server has issued, by account.
CREATE TABLE credentials (
    account text COLLATE "C" NOT NULL PRIMARY KEY,
    -- Tells the refresh token of the configuration that it all began with.
    origin text NOT NULL,
    -- The tokens, encrypted; null before the first refresh.
    sealed bytea,
    refreshed_at bigint,
    -- The process that may refresh them now, and until when.
    locked_by uuid,
    locked_until bigint
);
