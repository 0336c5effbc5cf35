//! Signatures against the real `ssh-keygen -Y`, both ways, for every key type; `allowed_signers` against the real parser; and
//! the law that only the exact signed bytes authenticate.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]

mod allowed_signers;
mod bench;
mod certificates;
mod client;
mod flipped_bits;
mod requests;
mod security_keys;
