//! Files that root trusts: opened once and checked, replaced atomically.
