//! sshd: how it was started, its configuration files line by line, and its effective configuration as `sshd -T` prints it. Runs
//! nothing: the agent does.

pub mod config;
mod effective;
mod invocation;

pub use effective::Effective;
pub use invocation::Invocation;
