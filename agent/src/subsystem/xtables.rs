//! Reads and writes xtables on the real host.
