-- For the replay: the version of a parked message body, which its header said and its bytes do not.

-- A body of another version that is replayed as one of ours would be guessed at. Null: the message said none, or none
-- that is a number; it is replayed without one, and parked again.
ALTER TABLE dead_letters ADD COLUMN schema_version bigint;

-- What is there already: until now there was one version, and letters of another say in their detail which.
UPDATE dead_letters SET schema_version = CASE
    WHEN reason = 'unknown_schema' THEN substring(detail FROM '^the message says schema ([0-9]{1,18});')::bigint
    ELSE 1
END;
