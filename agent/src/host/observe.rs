//! Reads the host for one question: what is always read, then fact by fact what the answer asks for, until it asks for nothing more
//! or nobody waits any longer.

use sshfix_policy::host::{Host, HostState, Needs, Question};

use crate::patience;

/// How often facts are fetched before a question is given up: each round answers at least one more lookup of the ruleset.
const MAX_ROUNDS: usize = 64;

/// Reads the host and asks again until no fact is missing. An answer that still misses one treats it as unknown.
pub(crate) fn observed<H: Host, T>(
    host: &mut H,
    question: &Question,
    answer: impl Fn(&HostState, &mut Needs) -> T,
) -> (HostState, T) {
    let state = host.observe(question);
    complete(host, state, Needs::new(), answer)
}

/// The same from what was read already; `asked` is known of it.
pub(crate) fn complete<H: Host, T>(
    host: &mut H,
    mut state: HostState,
    mut asked: Needs,
    answer: impl Fn(&HostState, &mut Needs) -> T,
) -> (HostState, T) {
    for _ in 0..MAX_ROUNDS {
        let mut needs = Needs::new();
        let value = answer(&state, &mut needs);
        needs.retain(|need| !asked.contains(need));
        // What is not read now is unknown to this answer; whose patience is over is told so.
        if needs.is_empty() || patience::is_over() {
            return (state, value);
        }
        host.lookup(&mut state, &needs);
        asked.append(&mut needs);
    }
    let value = answer(&state, &mut Needs::new());
    (state, value)
}
