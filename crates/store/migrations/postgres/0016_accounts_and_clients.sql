-- Sums over the turns of each account, for charts. Parts are those of usage_rollups, and rows come and go with the rows there.
CREATE TABLE account_rollups (
    part bigint NOT NULL,
    -- UTC milliseconds.
    starts_at bigint NOT NULL,
    account text COLLATE "C" NOT NULL,
    turns bigint NOT NULL,
    failed_turns bigint NOT NULL,
    PRIMARY KEY (part, starts_at, account)
);

INSERT INTO account_rollups (part, starts_at, account, turns, failed_turns)
SELECT part, starts_at, account, CAST(sum(turns) AS bigint), CAST(sum(failed_turns) AS bigint)
FROM usage_rollups WHERE account <> '' GROUP BY part, starts_at, account;

-- Which clients use a key, by the name that they give themselves.
CREATE TABLE key_clients (
    key_id uuid NOT NULL,
    client text COLLATE "C" NOT NULL,
    -- UTC milliseconds.
    used_at bigint NOT NULL,
    PRIMARY KEY (key_id, client)
);
