-- Of the turn's last attempt: when it began, after the start of the turn. Of all attempts, if there were several: a JSON array. And
-- what its account got of the chain's encrypted items.
-- Texts are grouped byte by byte; saying so changes no row.
ALTER TABLE request_log
    ADD COLUMN sent_us bigint,
    ADD COLUMN attempt_log text,
    ADD COLUMN reasoning text,
    ALTER COLUMN outcome TYPE text COLLATE "C";

-- Turns that did not go well are few, and operators look for them. Completed turns cost these indexes nothing.
CREATE INDEX request_log_by_outcome ON request_log (outcome, at, response_id) WHERE outcome <> 'completed';
CREATE INDEX request_log_by_code ON request_log (code, at, response_id) WHERE code IS NOT NULL;

-- Sums over turns for charts. Parts are those of usage_rollups, and rows come and go with the rows there. There are few of them,
-- however many keys there are.
CREATE TABLE outcome_rollups (
    part bigint NOT NULL,
    -- UTC milliseconds.
    starts_at bigint NOT NULL,
    -- Empty for turns that no account was chosen for.
    model text COLLATE "C" NOT NULL,
    outcome text COLLATE "C" NOT NULL,
    turns bigint NOT NULL,
    unpriced_turns bigint NOT NULL,
    input_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    cost_nano_usd bigint NOT NULL,
    PRIMARY KEY (part, starts_at, model, outcome)
);

-- How many turns that an upstream served took how long.
CREATE TABLE latency_rollups (
    part bigint NOT NULL,
    -- UTC milliseconds.
    starts_at bigint NOT NULL,
    -- 0 to the first event, 1 to the end.
    measure bigint NOT NULL,
    -- The upper bound of the bucket, in microseconds.
    up_to_us bigint NOT NULL,
    turns bigint NOT NULL,
    PRIMARY KEY (part, starts_at, measure, up_to_us)
);

-- Of rows that have left the log, only this is known.
INSERT INTO outcome_rollups (part, starts_at, model, outcome, turns, unpriced_turns, input_tokens, cached_tokens, output_tokens,
  reasoning_tokens, cost_nano_usd)
SELECT part, starts_at, model, 'completed', CAST(sum(turns - failed_turns) AS bigint), CAST(sum(unpriced_turns) AS bigint), CAST(sum(input_tokens) AS bigint), CAST(sum(cached_tokens) AS bigint),
  CAST(sum(output_tokens) AS bigint), CAST(sum(reasoning_tokens) AS bigint), CAST(sum(cost_nano_usd) AS bigint)
FROM usage_rollups WHERE part <> 0 GROUP BY part, starts_at, model;
INSERT INTO outcome_rollups (part, starts_at, model, outcome, turns, unpriced_turns, input_tokens, cached_tokens, output_tokens,
  reasoning_tokens, cost_nano_usd)
SELECT part, starts_at, model, 'failed', CAST(sum(failed_turns) AS bigint), 0, 0, 0, 0, 0, 0
FROM usage_rollups WHERE part <> 0 AND failed_turns > 0 GROUP BY part, starts_at, model;

-- The hours that are in the log are rolled up again, with the tables above.
DELETE FROM usage_rollups WHERE part = 0;
