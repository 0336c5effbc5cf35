//! sshd: how it was started, its configuration files line by line, and its effective configuration as `sshd -T` prints it. Runs
//! nothing: the agent does.

mod access;
mod account;
mod admission;
pub mod config;
mod effective;
mod invocation;
mod judge;
mod state;

pub use admission::drop_percent;
pub use effective::Effective;
pub use invocation::{Invocation, environment_file};
pub use judge::stages;
pub use state::{Account, Dropped, Folder, KeyFile, Login, Need, Server, Startups, State, drops, is_user_name};
