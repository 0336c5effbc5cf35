-- Times are microseconds since 1970, UTC. JSON is what serde writes for the type named.

-- Request ids that count once; a row can go when its time is over.
CREATE TABLE requests_seen (
    id    TEXT PRIMARY KEY NOT NULL,
    until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX requests_seen_until ON requests_seen (until);

-- Append-only: a request's record is opened by one row and closed by a later one, whose `closes` names it.
-- hash = SHA-256 over prev_hash and every other column (audit.rs), so each row vouches for all before it.
CREATE TABLE audit (
    seq       INTEGER PRIMARY KEY NOT NULL,
    at        INTEGER NOT NULL,
    closes    INTEGER UNIQUE REFERENCES audit (seq),
    body      TEXT NOT NULL,
    prev_hash BLOB NOT NULL,
    hash      BLOB NOT NULL
) STRICT;
CREATE TRIGGER audit_is_never_edited BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'audit records are never edited'); END;
CREATE TRIGGER audit_is_never_cut BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'audit records are never deleted'); END;

-- Heads of the chain, signed by the host key.
CREATE TABLE audit_checkpoints (
    seq       INTEGER PRIMARY KEY NOT NULL REFERENCES audit (seq),
    at        INTEGER NOT NULL,
    hash      BLOB NOT NULL,
    signature TEXT NOT NULL
) STRICT;

CREATE TABLE changes (
    id          TEXT PRIMARY KEY NOT NULL,
    principal   TEXT NOT NULL,
    operation   TEXT NOT NULL,
    digest      TEXT NOT NULL,
    state       TEXT NOT NULL,
    started_at  INTEGER NOT NULL,
    deadline    INTEGER,
    finished_at INTEGER,
    detail      TEXT NOT NULL DEFAULT ''
) STRICT;
-- One change at a time, whatever the code does.
CREATE UNIQUE INDEX changes_one_at_a_time ON changes ((1))
    WHERE state IN ('begun', 'applying', 'verified', 'pending', 'rolling-back');

-- The steps of a change in the order they are applied, written before the first is.
CREATE TABLE steps (
    change_id  TEXT NOT NULL REFERENCES changes (id),
    step_index INTEGER NOT NULL,
    step       TEXT NOT NULL,
    PRIMARY KEY (change_id, step_index)
) STRICT, WITHOUT ROWID;

-- What happened to each step, append-only.
CREATE TABLE journal (
    seq        INTEGER PRIMARY KEY NOT NULL,
    change_id  TEXT NOT NULL,
    step_index INTEGER NOT NULL,
    event      TEXT NOT NULL,
    at         INTEGER NOT NULL,
    detail     TEXT NOT NULL,
    FOREIGN KEY (change_id, step_index) REFERENCES steps (change_id, step_index)
) STRICT;
CREATE INDEX journal_of_step ON journal (change_id, step_index, seq);

-- An allow that ends: the steps that take it back.
CREATE TABLE leases (
    id         TEXT PRIMARY KEY NOT NULL,
    change_id  TEXT NOT NULL REFERENCES changes (id),
    principal  TEXT NOT NULL,
    summary    TEXT NOT NULL,
    steps      TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    ends_at    INTEGER NOT NULL,
    ended_at   INTEGER
) STRICT;
CREATE INDEX leases_running ON leases (ends_at) WHERE ended_at IS NULL;
