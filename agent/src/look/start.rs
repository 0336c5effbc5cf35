//! Starts looks: a short-lived process for each, killed at its deadline. Remembers what hung, so that a home on a dead file server is not
//! looked at again at once, and that few looks hang in the kernel. Touches no path of a user itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sshfix_policy::subsystem::sshd::shown;

use super::{ANSWER_MAX, Ask, Told};
use crate::sys::child::{self, ChildError};

/// This program itself, also where its file was replaced meanwhile.
const PROGRAM: &str = "/proc/self/exe";
/// How long after a look that hung no other is taken at what the same user owns.
const PAUSE: Duration = Duration::from_secs(15);
/// Looks that may hang in the kernel at a time.
const MAX_STUCK: usize = 8;

/// Looks that hung, by user; `None` is the system's own lookups.
static TROUBLE: Mutex<BTreeMap<Option<u32>, Trouble>> = Mutex::new(BTreeMap::new());

#[derive(Debug, Default)]
struct Trouble {
    until: Option<Instant>,
    stuck: usize,
}

/// One look, and its answer. `owner` is the user whose paths it touches.
pub(super) fn look(owner: Option<u32>, question: &Ask, until: Instant) -> Result<Told, String> {
    let limit = until.saturating_duration_since(Instant::now());
    may_look(owner)?;
    let question = serde_json::to_vec(question).map_err(|error| error.to_string())?;
    let (answer, left) = child::run_or_leave(Path::new(PROGRAM), &["look"], Some(&question), limit, ANSWER_MAX);
    if let Some(child) = left {
        TROUBLE.lock().unwrap_or_else(PoisonError::into_inner).entry(owner).or_default().stuck += 1;
        child::reap(child, move || ended(owner));
    }
    match answer {
        Ok(output) if output.success() => match serde_json::from_slice(&output.stdout) {
            Ok(Told::Failed(why)) => Err(shown(&why)),
            Ok(told) => Ok(told),
            Err(_) => Err("its answer cannot be read".to_owned()),
        },
        Ok(output) => {
            let how = output.signal.map_or_else(|| "it failed".to_owned(), |signal| format!("signal {signal} ended it"));
            Err(format!("the look at it gave no answer: {how}"))
        }
        Err(ChildError::TimedOut { after, .. }) => {
            // Ended earlier, the client has gone: that says nothing of the user.
            if Instant::now() >= until {
                let mut trouble = TROUBLE.lock().unwrap_or_else(PoisonError::into_inner);
                trouble.entry(owner).or_default().until = Some(Instant::now() + PAUSE);
            }
            Err(format!(
                "no answer within {:.1} s: its file system or directory hangs, or the user delays the look",
                after.as_secs_f32()
            ))
        }
        Err(ChildError::TooMuchOutput { .. }) => Err("the look at it gave an answer longer than any valid one".to_owned()),
        Err(error @ (ChildError::NotStarted { .. } | ChildError::Lost { .. })) => Err(error.to_string()),
    }
}

/// A look that hung is not repeated at once, and those that hang in the kernel are few.
fn may_look(owner: Option<u32>) -> Result<(), String> {
    let mut trouble = TROUBLE.lock().unwrap_or_else(PoisonError::into_inner);
    trouble.retain(|_, it| it.stuck > 0 || it.until.is_some_and(|until| until > Instant::now()));
    if trouble.values().map(|it| it.stuck).sum::<usize>() >= MAX_STUCK {
        return Err(format!("{MAX_STUCK} earlier looks at what users own still hang"));
    }
    match trouble.get(&owner) {
        Some(Trouble { stuck: 1.., .. }) => Err("an earlier look still hangs in its file system".to_owned()),
        Some(_) => Err(format!("an earlier look hung; retrying after {} s", PAUSE.as_secs())),
        None => Ok(()),
    }
}

fn ended(owner: Option<u32>) {
    if let Some(trouble) = TROUBLE.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&owner) {
        trouble.stuck = trouble.stuck.saturating_sub(1);
    }
}
