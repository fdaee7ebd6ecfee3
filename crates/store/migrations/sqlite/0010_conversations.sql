-- Times are UTC milliseconds, ids the 16 bytes of their UUID, JSON is bytes.

-- Of a turn that nobody served, as its items were posted to a conversation or deleted from one: what it deletes, 20 bytes an item
-- (the turn's id and the item's position in it, the highest byte first). Null for a response.
ALTER TABLE responses ADD COLUMN deletes BLOB;

-- `conversation_id` is set as long as the conversation lives: until then, its turns neither expire nor are they purged.
CREATE INDEX responses_by_conversation ON responses (conversation_id) WHERE conversation_id IS NOT NULL;

CREATE TABLE conversations (
    id BLOB NOT NULL,
    project TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    metadata BLOB NOT NULL,
    -- The newest turn, and its depth; null and 0 for none.
    head_id BLOB,
    depth INTEGER NOT NULL,
    -- Grows with every change of the head.
    version INTEGER NOT NULL,
    -- Of the next item. Positions are never used again.
    next_position INTEGER NOT NULL,
    -- Who is appending to it, and until when others believe that.
    locked_by BLOB,
    locked_until INTEGER,
    deleted_at INTEGER,
    -- Set with the deletion: how long after their creation responses are kept; null for ever.
    retention_ms INTEGER,
    PRIMARY KEY (id, project)
) STRICT, WITHOUT ROWID;

CREATE INDEX conversations_by_project ON conversations (project, id);
CREATE INDEX conversations_by_deletion ON conversations (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE conversation_items (
    conversation_id BLOB NOT NULL,
    project TEXT NOT NULL,
    position INTEGER NOT NULL,
    item_id TEXT NOT NULL,
    -- The turn that has the item, and its position among that turn's input and then output items.
    response_id BLOB NOT NULL,
    item_position INTEGER NOT NULL,
    PRIMARY KEY (conversation_id, project, position)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX conversation_items_by_item ON conversation_items (item_id, conversation_id, project);
