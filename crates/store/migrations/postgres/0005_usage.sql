-- The key that the turn came with, how often an upstream was asked, and what the turn cost (null: the model has no price).
-- Texts are grouped and ordered byte by byte; saying so changes no row.
ALTER TABLE request_log
    ADD COLUMN key_id text COLLATE "C",
    ADD COLUMN attempts bigint,
    ADD COLUMN cost_nano_usd bigint,
    ALTER COLUMN project TYPE text COLLATE "C",
    ALTER COLUMN account TYPE text COLLATE "C",
    ALTER COLUMN model TYPE text COLLATE "C";

-- Sums over turns. What a turn lacks (a key, an account) is an empty text here, and so is the model of a turn that no
-- account was chosen for: clients can write anything there.
CREATE TABLE usage_rollups (
    -- 0: hours of rows that are in request_log, made again as rows are added.
    -- 1 and 2: hours and days of rows that have left it, added to as they leave.
    part bigint NOT NULL,
    -- UTC milliseconds.
    starts_at bigint NOT NULL,
    project text COLLATE "C" NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    account text COLLATE "C" NOT NULL,
    model text COLLATE "C" NOT NULL,
    turns bigint NOT NULL,
    failed_turns bigint NOT NULL,
    -- Turns with tokens that have no price.
    unpriced_turns bigint NOT NULL,
    input_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    cost_nano_usd bigint NOT NULL,
    PRIMARY KEY (part, starts_at, project, key_id, account, model)
);
