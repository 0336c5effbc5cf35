//! `sshd_config`: lossless files, the tree of their Includes, and what they mean for one client, with file and line. The meaning is
//! held against `sshd -T` of both releases by tests; the values themselves always come from `sshd -T`, never from here.

mod block;
mod criteria;
mod document;
mod edit;
mod evaluate;
pub mod glob;
pub mod keyword;
mod line;
mod lists;
pub mod merge;
pub mod offer;
mod tree;

pub use block::{Block, Criteria, NAMES as CRITERIA, blocks};
pub(crate) use criteria::criteria;
pub(crate) use criteria::net;
pub use criteria::{
    Client, Listed, Matching, address_list, address_list_at, inet_aton, is_name, is_scoped, match_line, pattern_list, text_of,
    user_pattern,
};
pub use document::Document;
pub use edit::{Edit, EditError, edit, edited};
pub use evaluate::{Setting, Settings, evaluate, global_lines};
pub use line::{Directive, Line, LineError};
pub use lists::{Changed, edit_lines};
pub use tree::{ConfigError, DEPTH_MAX, Place, Tree};

#[cfg(test)]
mod edit_tests;
#[cfg(test)]
mod tests;
