-- How many items the conversation has now, how many bytes its turns have added, and when it was changed last.
ALTER TABLE conversations ADD COLUMN item_count INTEGER NOT NULL DEFAULT 0;
ALTER TABLE conversations ADD COLUMN size_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE conversations ADD COLUMN used_at INTEGER NOT NULL DEFAULT 0;

UPDATE conversations SET
    item_count = (SELECT count(*) FROM conversation_items i
        WHERE i.conversation_id = conversations.id AND i.project = conversations.project),
    size_bytes = 1024 + length(metadata) + (SELECT coalesce(sum(1024 + length(r.input) + length(r.output) + length(r.body)), 0)
        FROM responses r WHERE r.conversation_id = 'conv_' || lower(hex(conversations.id)) AND r.project = conversations.project),
    used_at = max(created_at, coalesce((SELECT max(r.created_at)
        FROM responses r WHERE r.conversation_id = 'conv_' || lower(hex(conversations.id)) AND r.project = conversations.project), 0));

CREATE INDEX conversations_by_use ON conversations (used_at) WHERE deleted_at IS NULL;

-- 1 if the tokens were estimated, because the upstream reported none.
ALTER TABLE request_log ADD COLUMN estimated INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage_rollups ADD COLUMN estimated_turns INTEGER NOT NULL DEFAULT 0;
