-- The processes that serve turns; each tells the others that it is alive. Times are UTC milliseconds by its own clock.
CREATE TABLE replicas (
    id uuid NOT NULL PRIMARY KEY,
    started_at bigint NOT NULL,
    seen_at bigint NOT NULL,
    -- Grows with every heartbeat, whatever the clocks say.
    beats bigint NOT NULL
) WITH (fillfactor = 50);

-- The replica whose turn it is; null for one of an earlier release.
ALTER TABLE reservations ADD COLUMN replica uuid;
