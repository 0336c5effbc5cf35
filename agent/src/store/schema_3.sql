-- Leases by what they added (lease.rs, Item) instead of by steps that fit the host of the day they were made; rows of before have none.
ALTER TABLE leases ADD COLUMN items TEXT NOT NULL DEFAULT '[]';
-- Their time by a clock that nobody sets: in this boot, from this CLOCK_BOOTTIME on, so much was left (microseconds).
ALTER TABLE leases ADD COLUMN boot TEXT NOT NULL DEFAULT '';
ALTER TABLE leases ADD COLUMN boot_from INTEGER NOT NULL DEFAULT 0;
ALTER TABLE leases ADD COLUMN boot_left INTEGER NOT NULL DEFAULT 0;
-- Whether what a reboot takes away is there in this boot.
ALTER TABLE leases ADD COLUMN in_place INTEGER NOT NULL DEFAULT 1;
-- What was left at its end, and why.
ALTER TABLE leases ADD COLUMN detail TEXT NOT NULL DEFAULT '';
