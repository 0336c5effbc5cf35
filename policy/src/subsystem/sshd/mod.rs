//! sshd: how it was started, its configuration files line by line, and its effective configuration as `sshd -T` prints it. Runs
//! nothing: the agent does.

mod change;
mod check;
pub mod config;
pub mod facts;
mod judge;
mod named_files;
mod quoting;
mod show;
pub mod way_in;

pub use change::exempt::{plan_exempt, plan_unexempt};
pub use change::lift::{Lifts, lifts};
pub use change::no_plan::NoPlan;
pub use change::plan::{Keyword, Planned, plan_edits, plan_reload, plan_restart, plan_set, plan_start, plan_unset};
pub use change::repair::{MADE_BY, PRIVSEP, Repair};
pub use change::scope::beyond;
pub use change::step::{Activation, FileEdit, Step, Through};
pub use check::{FileFacts, ReadAt, Running, check};
pub use facts::ask::{Answer, Candidate, Changes, login_as, resolved};
pub use facts::authorized_keys::{AuthorizedKey, authorized_keys};
pub use facts::chain::{Chain, Kind, Link, Owner, Stop, shown};
pub use facts::effective::Effective;
pub use facts::invocation::{Invocation, environment_file};
pub use facts::key_file::{
    Groups, KeyFile, MAX_MATCHES, Members, Modes, Reader, Reading, Refused, Seen, is_pattern, key_file, strangers, writing_groups,
};
pub use facts::key_options::LineFault;
pub use facts::passed_over::{Ground, PassedOver, PathFault, PathFaults, Wrong};
pub use facts::power::{Power, SCHEDULED};
pub use facts::revoked_keys::{RevokedKeys, revoked_keys};
pub use facts::root_folder::{PartIs, RootFolder, RootPart, root_parts};
pub use facts::state::{
    Absent, Account, Aging, Boot, DEFAULT_KEYS, Folder, HostKey, KeyProblem, Login, Manager, Need, Pid, Runs, Server, Startups,
    State, ValueFile, host_key_paths, is_user_name,
};
pub use judge::admission::{complains_of_these, drop_percent};
pub use judge::considered::trace;
pub use judge::judgement::{Found, Mend, Remedy};
pub use judge::sockets::{ends, listen_address, listens};
pub use judge::stages::stages;
pub use show::{ShowError, ShowQuestion, show};
pub use way_in::risk::{Limit, Risk};
pub use way_in::{Fault, WayIn, is_in, server_for, way_in, way_in_now};
