//! Differences of files and their merging, byte for byte. Knows no format and no subsystem.

pub mod diff;
pub mod merge;
mod show;

pub use show::show;
pub mod quoted;
