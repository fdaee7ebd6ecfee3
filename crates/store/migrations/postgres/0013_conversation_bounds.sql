-- How many items the conversation has now, how many bytes its turns have added, and when it was changed last.
ALTER TABLE conversations
    ADD COLUMN item_count bigint NOT NULL DEFAULT 0,
    ADD COLUMN size_bytes bigint NOT NULL DEFAULT 0,
    ADD COLUMN used_at bigint NOT NULL DEFAULT 0;

UPDATE conversations SET
    item_count = (SELECT count(*) FROM conversation_items i
        WHERE i.conversation_id = conversations.id AND i.project = conversations.project),
    size_bytes = 1024 + length(metadata) + (SELECT CAST(coalesce(sum(1024 + length(r.input) + length(r.output) + length(r.body)), 0) AS bigint)
        FROM responses r WHERE r.conversation_id = 'conv_' || replace(CAST(conversations.id AS text), '-', '') AND r.project = conversations.project),
    used_at = greatest(created_at, coalesce((SELECT max(r.created_at)
        FROM responses r WHERE r.conversation_id = 'conv_' || replace(CAST(conversations.id AS text), '-', '') AND r.project = conversations.project), 0));

CREATE INDEX conversations_by_use ON conversations (used_at) WHERE deleted_at IS NULL;

-- 1 if the tokens were estimated, because the upstream reported none.
ALTER TABLE request_log ADD COLUMN estimated bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_rollups ADD COLUMN estimated_turns bigint NOT NULL DEFAULT 0;
