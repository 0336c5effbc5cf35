//! How the agent comes up: its command line's programs, where it listens, and what an earlier run or boot left behind. Decides nothing about
//! a request.

pub mod check;
pub mod init;
pub mod listen;
pub mod recover;
pub mod run;
