//! What was read of sshd and what belongs to it: how it was started, its values, keys, accounts and the journal, as facts. Judges nobody.

pub(crate) mod ask;
pub(crate) mod authorized_keys;
pub(crate) mod chain;
pub(crate) mod effective;
pub mod faillock;
pub(crate) mod invocation;
pub mod journal;
pub(crate) mod key_file;
pub(crate) mod key_options;
pub mod pam;
pub(crate) mod passed_over;
pub(crate) mod power;
pub(crate) mod revoked_keys;
pub(crate) mod root_folder;
pub mod stack;
pub(crate) mod state;
