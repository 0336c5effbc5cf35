//! Reads and writes nf_tables on the real host.
