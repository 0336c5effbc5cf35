//! Reads and writes listener on the real host.
