-- CRC-32 of what the row was written with, by which damage is noticed; null for a row of an earlier release. One is of the body and
-- one of the rest, as most reads need no body.
ALTER TABLE responses ADD COLUMN checksum bigint, ADD COLUMN body_checksum bigint;
