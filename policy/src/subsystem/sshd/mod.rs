//! sshd: how it was started, its configuration files line by line, and its effective configuration as `sshd -T` prints it. Runs
//! nothing: the agent does.

mod access;
mod account;
mod admission;
mod candidate;
pub mod config;
mod effective;
mod invocation;
mod judge;
mod methods;
mod plan;
mod serves;
mod state;
mod step;
mod way_in;

pub use admission::drop_percent;
pub use candidate::{Answer, Candidate, Changes, login_as, resolved};
pub use effective::Effective;
pub use invocation::{Invocation, environment_file};
pub use judge::stages;
pub use methods::key_kinds;
pub use plan::{Keyword, Planned, plan_edits, plan_reload, plan_restart, plan_set, plan_start, plan_unset};
pub use state::{Account, Dropped, Folder, KeyFile, Login, Manager, Need, Server, Startups, State, drops, is_user_name};
pub use step::{Activation, FileEdit, Step, Through};
pub use way_in::{WayIn, way_in, way_in_now};
