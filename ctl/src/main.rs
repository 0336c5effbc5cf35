//! The `sshfix` binary. Everything is in the library, so that tests and the packaging (man pages, completions) share it.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(sshfix::run(std::env::args_os()))
}
