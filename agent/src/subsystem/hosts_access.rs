//! Reads and writes hosts_access on the real host.
