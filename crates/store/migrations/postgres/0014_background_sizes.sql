-- What a turn stores until it has ended: its request, its input items and its response.
ALTER TABLE background_turns ADD COLUMN size_bytes bigint NOT NULL DEFAULT 0;
UPDATE background_turns SET size_bytes = length(request) + coalesce(length(input), 0) + length(response)
    WHERE ended_at IS NULL;

-- Has all that the limits on queued turns ask for, so that no turn is read for them.
DROP INDEX background_turns_queued;
CREATE INDEX background_turns_queued ON background_turns (project, size_bytes) WHERE status = 4;

-- With a checksum, the events are compressed. Null for those of earlier versions, which are stored as they are.
ALTER TABLE background_events ADD COLUMN checksum bigint;
