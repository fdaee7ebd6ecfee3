-- Of the turn's last attempt: when it began, after the start of the turn. Of all attempts, if there were several: a JSON array. And
-- what its account got of the chain's encrypted items.
ALTER TABLE request_log ADD COLUMN sent_us INTEGER;
ALTER TABLE request_log ADD COLUMN attempt_log TEXT;
ALTER TABLE request_log ADD COLUMN reasoning TEXT;

-- Turns that did not go well are few, and operators look for them. Completed turns cost these indexes nothing.
CREATE INDEX request_log_by_outcome ON request_log (outcome, at, response_id) WHERE outcome <> 'completed';
CREATE INDEX request_log_by_code ON request_log (code, at, response_id) WHERE code IS NOT NULL;

-- Sums over turns for charts. Parts are those of usage_rollups, and rows come and go with the rows there. There are few of them,
-- however many keys there are.
CREATE TABLE outcome_rollups (
    part INTEGER NOT NULL,
    -- UTC milliseconds.
    starts_at INTEGER NOT NULL,
    -- Empty for turns that no account was chosen for.
    model TEXT NOT NULL,
    outcome TEXT NOT NULL,
    turns INTEGER NOT NULL,
    unpriced_turns INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    cost_nano_usd INTEGER NOT NULL,
    PRIMARY KEY (part, starts_at, model, outcome)
) STRICT, WITHOUT ROWID;

-- How many turns that an upstream served took how long.
CREATE TABLE latency_rollups (
    part INTEGER NOT NULL,
    -- UTC milliseconds.
    starts_at INTEGER NOT NULL,
    -- 0 to the first event, 1 to the end.
    measure INTEGER NOT NULL,
    -- The upper bound of the bucket, in microseconds.
    up_to_us INTEGER NOT NULL,
    turns INTEGER NOT NULL,
    PRIMARY KEY (part, starts_at, measure, up_to_us)
) STRICT, WITHOUT ROWID;

-- Of rows that have left the log, only this is known.
INSERT INTO outcome_rollups (part, starts_at, model, outcome, turns, unpriced_turns, input_tokens, cached_tokens, output_tokens,
  reasoning_tokens, cost_nano_usd)
SELECT part, starts_at, model, 'completed', sum(turns - failed_turns), sum(unpriced_turns), sum(input_tokens), sum(cached_tokens),
  sum(output_tokens), sum(reasoning_tokens), sum(cost_nano_usd)
FROM usage_rollups WHERE part <> 0 GROUP BY part, starts_at, model;
INSERT INTO outcome_rollups (part, starts_at, model, outcome, turns, unpriced_turns, input_tokens, cached_tokens, output_tokens,
  reasoning_tokens, cost_nano_usd)
SELECT part, starts_at, model, 'failed', sum(failed_turns), 0, 0, 0, 0, 0, 0
FROM usage_rollups WHERE part <> 0 AND failed_turns > 0 GROUP BY part, starts_at, model;

-- The hours that are in the log are rolled up again, with the tables above.
DELETE FROM usage_rollups WHERE part = 0;
