-- Runs of old records of questions that were summed up (audit/sum_up.rs): what they were, and the two ends of the chain that they held
-- together. Signed by the host's key, so that only the agent can have done it. Only such records may go.
CREATE TABLE audit_summed (
    first     INTEGER PRIMARY KEY NOT NULL,
    last      INTEGER NOT NULL,
    before    BLOB NOT NULL,
    hash      BLOB NOT NULL,
    body      TEXT NOT NULL,
    signature TEXT NOT NULL
) STRICT;
DROP TRIGGER audit_is_never_cut;
CREATE TRIGGER audit_is_never_cut BEFORE DELETE ON audit
WHEN coalesce((SELECT last FROM audit_summed WHERE first <= old.seq ORDER BY first DESC LIMIT 1), 0) < old.seq
BEGIN SELECT RAISE(ABORT, 'audit records are never deleted'); END;
