-- Null for turns that an earlier version wrote.
-- Of the request and the input items.
ALTER TABLE background_turns ADD COLUMN request_checksum BIGINT;
-- Of the headers and the response, as long as the turn has not ended.
ALTER TABLE background_turns ADD COLUMN queued_checksum BIGINT;
-- Of the response, once the turn has ended.
ALTER TABLE background_turns ADD COLUMN ended_checksum BIGINT;
