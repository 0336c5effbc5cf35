-- What the drills of rollback came to (`sshfix-agent drill`).
CREATE TABLE drills (
    at     INTEGER PRIMARY KEY NOT NULL,
    passed INTEGER NOT NULL,
    points INTEGER NOT NULL,
    detail TEXT NOT NULL
) STRICT;
