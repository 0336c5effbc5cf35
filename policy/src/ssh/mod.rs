//! What OpenSSH's formats say: keys, certificates, signatures and patterns (PROTOCOL.key, PROTOCOL.certkeys, PROTOCOL.sshsig). Reads bytes and
//! texts; decides about nobody.

pub mod blob;
pub mod certificate;
pub mod pattern;
pub mod public_key;
pub mod sshsig;
pub(crate) mod texts;
