//! sshfix-tests: the lab (real servers in namespaces for the tests in `tests/` and the benchmarks in `benches/`) and what the
//! fuzz targets in `fuzz/` do.
//! A harness panics with what went wrong instead of returning errors: a test can do nothing else with them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions, clippy::missing_panics_doc)]

pub mod lab;
pub mod rulesets;
pub mod targets;
