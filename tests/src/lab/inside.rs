//! The agent's own code inside a server's namespaces, in a process of its own: it keeps connections and starts threads. The test
//! binary runs itself again, as nothing but its test `inside`.

use std::fs::{self, File};
use std::process::Command;

use nix::sched::{CloneFlags, setns, unshare};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::server::Server;

/// Words for `inside`, one a line: the pid of the server's init, the file for the answer, the question.
const VARIABLE: &str = "SSHFIX_TEST_INSIDE";

/// What the test `inside` of this binary answers in the server's network, mount and process namespaces.
///
/// # Panics
/// When there is no such test, or it fails.
#[track_caller]
pub fn ask_inside<T: DeserializeOwned>(server: &Server, question: &[&str]) -> T {
    let answer = tempfile::NamedTempFile::new().expect("a file for the answer");
    let words = [&[&server.leader().to_string(), &*answer.path().to_string_lossy()], question].concat().join("\n");
    // With the server's process ids, too, so that its /proc knows this process.
    let output = Command::new("nsenter")
        .args(["--target", &server.leader().to_string(), "--pid", "--"])
        .arg(std::env::current_exe().expect("the test's own path"))
        .args(["--exact", "inside"])
        .env(VARIABLE, words)
        .output()
        .expect("the test runs itself");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&fs::read(answer.path()).expect("an answer")).expect("an answer as it was asked for")
}

/// The whole of the test `inside`: answers [`ask_inside`]; does nothing where it was not asked.
///
/// # Panics
/// When it cannot enter the server.
pub fn answer_inside<T: Serialize + Send + 'static>(work: impl FnOnce(&[&str]) -> T + Send + 'static) {
    let Ok(words) = std::env::var(VARIABLE) else { return };
    let worker = std::thread::spawn(move || {
        let words: Vec<&str> = words.split('\n').collect();
        let [leader, answer, question @ ..] = words.as_slice() else { panic!("too few words: {words:?}") };
        let namespaces = ["net", "mnt"].map(|kind| File::open(format!("/proc/{leader}/ns/{kind}")).expect("the server is on"));
        let mut file = File::create(answer).expect("a file for the answer");
        unshare(CloneFlags::CLONE_FS).expect("root");
        for namespace in namespaces {
            setns(namespace, CloneFlags::empty()).expect("root");
        }
        std::env::set_current_dir("/").expect("a directory of the server");
        serde_json::to_writer(&mut file, &work(question)).expect("the answer is written");
    });
    worker.join().expect("an answer");
}
