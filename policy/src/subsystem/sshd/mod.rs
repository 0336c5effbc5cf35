//! sshd: how it was started, and its effective configuration as `sshd -T` prints it. Runs nothing: the agent does.

mod effective;
mod invocation;

pub use effective::Effective;
pub use invocation::Invocation;
