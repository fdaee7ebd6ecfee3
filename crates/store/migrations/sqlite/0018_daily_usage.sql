-- Part 3: days of the hours in part 0. The hours that are there are summed here; later ones as they are rolled up.
INSERT INTO usage_rollups (part, starts_at, project, key_id, account, model, turns, failed_turns, unpriced_turns, estimated_turns,
  input_tokens, cached_tokens, output_tokens, reasoning_tokens, cost_nano_usd)
SELECT 3, starts_at - starts_at % 86400000, project, key_id, account, model, sum(turns), sum(failed_turns), sum(unpriced_turns),
  sum(estimated_turns), sum(input_tokens), sum(cached_tokens), sum(output_tokens), sum(reasoning_tokens), sum(cost_nano_usd)
FROM usage_rollups WHERE part = 0 GROUP BY 2, 3, 4, 5, 6;
