-- The processes that serve turns; each tells the others that it is alive. Times are UTC milliseconds by its own clock.
CREATE TABLE replicas (
    id BLOB NOT NULL PRIMARY KEY,
    started_at INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    -- Grows with every heartbeat, whatever the clocks say.
    beats INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The replica whose turn it is; null for one of an earlier release.
ALTER TABLE reservations ADD COLUMN replica BLOB;
