//! Reads and writes fail2ban on the real host.
