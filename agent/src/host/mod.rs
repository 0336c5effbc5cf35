//! The real host behind `policy::host::Host`: what is read of it for a question, and when.

pub mod live;
pub(crate) mod observe;
