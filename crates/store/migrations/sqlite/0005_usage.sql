-- The key that the turn came with, how often an upstream was asked, and what the turn cost (null: the model has no price).
ALTER TABLE request_log ADD COLUMN key_id TEXT;
ALTER TABLE request_log ADD COLUMN attempts INTEGER;
ALTER TABLE request_log ADD COLUMN cost_nano_usd INTEGER;

-- Sums over turns. What a turn lacks (a key, an account) is an empty text here, and so is the model of a turn that no
-- account was chosen for: clients can write anything there.
CREATE TABLE usage_rollups (
    -- 0: hours of rows that are in request_log, made again as rows are added.
    -- 1 and 2: hours and days of rows that have left it, added to as they leave.
    part INTEGER NOT NULL,
    -- UTC milliseconds.
    starts_at INTEGER NOT NULL,
    project TEXT NOT NULL,
    key_id TEXT NOT NULL,
    account TEXT NOT NULL,
    model TEXT NOT NULL,
    turns INTEGER NOT NULL,
    failed_turns INTEGER NOT NULL,
    -- Turns with tokens that have no price.
    unpriced_turns INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    cost_nano_usd INTEGER NOT NULL,
    PRIMARY KEY (part, starts_at, project, key_id, account, model)
) STRICT, WITHOUT ROWID;
