//! One request from the socket to its reply: who is served next, what is asked, and in which words it is refused. Changes nothing by itself.

pub mod decide;
pub mod pipeline;
pub mod places;
pub(crate) mod refusal;
pub mod report;
pub mod room;
pub mod serve;
