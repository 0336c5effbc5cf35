//! sshd: how it was started, its configuration files line by line, and its effective configuration as `sshd -T` prints it. Runs
//! nothing: the agent does.

mod access;
mod account;
mod admission;
mod algorithms;
mod alike;
mod authorized_keys;
mod broken;
mod candidate;
mod check;
mod clients;
pub mod config;
mod considered;
mod crash;
mod effective;
mod exempt;
pub mod faillock;
mod invocation;
pub mod journal;
mod judge;
#[cfg(test)]
mod judged_tests;
mod key_file;
mod limits;
mod methods;
mod objection;
pub mod pam;
mod penalty;
mod plan;
mod power;
mod remedy;
mod repair;
mod revoked_keys;
mod risk;
mod scope;
mod serves;
mod show;
mod state;
mod step;
pub mod values;
mod way_in;
mod worse;

pub use admission::drop_percent;
pub use authorized_keys::{AuthorizedKey, authorized_keys};
pub use candidate::{Answer, Candidate, Changes, login_as, resolved};
pub use check::{FileFacts, ReadAt, Running, check};
pub use considered::trace;
pub use effective::Effective;
pub use exempt::{plan_exempt, plan_unexempt};
pub use invocation::{Invocation, environment_file};
pub use judge::stages;
pub use key_file::{Chain, Groups, KeyFile, Members, Modes, Owner, Reading, Seen, key_file, shown, writing_groups};
pub use plan::{Keyword, Planned, plan_edits, plan_reload, plan_restart, plan_set, plan_start, plan_unset};
pub use power::{Power, SCHEDULED};
pub use remedy::{Found, Lifts, Remedy, lifts};
pub use repair::{MADE_BY, Mend, PRIVSEP, Repair};
pub use revoked_keys::{RevokedKeys, revoked_keys};
pub use risk::{Limit, Risk};
pub use scope::beyond;
pub use show::{ShowError, ShowQuestion, show};
pub use state::{
    Account, Folder, HostKey, KeyProblem, Login, Manager, Need, Server, Startups, State, host_key_paths, is_user_name,
};
pub use step::{Activation, FileEdit, Step, Through};
pub use values::ValueFile;
pub use way_in::{Fault, WayIn, is_in, server_for, way_in, way_in_now};
