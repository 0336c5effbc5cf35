//! The stages that sshd decides, one file a question; judgement says what each comes to. Asks for facts; plans nothing.

pub(crate) mod access;
pub(crate) mod account;
pub(crate) mod admission;
pub(crate) mod algorithms;
pub(crate) mod broken;
pub(crate) mod chroot;
pub(crate) mod considered;
pub(crate) mod crash;
pub(crate) mod doubt;
pub(crate) mod effect;
pub(crate) mod judgement;
pub(crate) mod key_places;
pub(crate) mod keys;
pub(crate) mod limits;
pub(crate) mod login;
pub(crate) mod methods;
pub(crate) mod methods_on;
pub(crate) mod objection;
pub(crate) mod origin;
pub(crate) mod penalty;
pub(crate) mod power;
pub(crate) mod sockets;
pub(crate) mod stages;
pub(crate) mod startups;
pub(crate) mod untold;
pub(crate) mod why_not;
