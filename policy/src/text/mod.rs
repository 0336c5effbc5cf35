//! Differences of files and their merging, byte for byte. Knows no format and no subsystem.

pub mod diff;
pub mod merge;
pub mod shell;
mod show;

pub use show::show;
pub mod quoted;
