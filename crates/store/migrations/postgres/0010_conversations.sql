-- Times are UTC milliseconds, JSON is bytes. Names are compared byte by byte.

-- Of a turn that nobody served, as its items were posted to a conversation or deleted from one: what it deletes, 20 bytes an item
-- (the turn's id and the item's position in it, the highest byte first). Null for a response.
ALTER TABLE responses ADD COLUMN deletes bytea;

-- `conversation_id` is set as long as the conversation lives: until then, its turns neither expire nor are they purged.
CREATE INDEX responses_by_conversation ON responses (conversation_id) WHERE conversation_id IS NOT NULL;

CREATE TABLE conversations (
    id uuid NOT NULL,
    created_at bigint NOT NULL,
    -- The newest turn, and its depth; null and 0 for none.
    head_id uuid,
    depth bigint NOT NULL,
    -- Grows with every change of the head.
    version bigint NOT NULL,
    -- Of the next item. Positions are never used again.
    next_position bigint NOT NULL,
    -- Who is appending to it, and until when others believe that.
    locked_by uuid,
    locked_until bigint,
    deleted_at bigint,
    -- Set with the deletion: how long after their creation responses are kept; null for ever.
    retention_ms bigint,
    project text COLLATE "C" NOT NULL,
    metadata bytea NOT NULL,
    PRIMARY KEY (id, project)
) WITH (fillfactor = 70);

CREATE INDEX conversations_by_project ON conversations (project, id);
CREATE INDEX conversations_by_deletion ON conversations (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE conversation_items (
    conversation_id uuid NOT NULL,
    -- The turn that has the item, and its position among that turn's input and then output items.
    response_id uuid NOT NULL,
    item_position bigint NOT NULL,
    position bigint NOT NULL,
    project text COLLATE "C" NOT NULL,
    item_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (conversation_id, project, position)
);

CREATE UNIQUE INDEX conversation_items_by_item ON conversation_items (item_id, conversation_id, project);
