-- The deadline by two clocks, and the plan as it was shown.
-- boot: which boot of the host it was made in (sys/clock.rs). CLOCK_BOOTTIME counts from there, in microseconds.
ALTER TABLE changes ADD COLUMN boot TEXT NOT NULL DEFAULT '';
ALTER TABLE changes ADD COLUMN deadline_boottime INTEGER;
-- When it became pending, by CLOCK_BOOTTIME: a confirm must come over a connection made later.
ALTER TABLE changes ADD COLUMN pending_boottime INTEGER;
ALTER TABLE changes ADD COLUMN plan TEXT;
