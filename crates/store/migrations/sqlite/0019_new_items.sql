-- Entries of `items` that are not in it yet, in the order in which they came.
CREATE TABLE new_items (
    seq INTEGER PRIMARY KEY,
    item_id TEXT NOT NULL,
    project TEXT NOT NULL,
    response_id BLOB NOT NULL,
    position INTEGER NOT NULL
) STRICT;
