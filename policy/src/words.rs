//! Words for people, on their way out. No decision reads them: in tests, whatever asks for a verdict, a plan or a proof asks a second
//! time in other words, and must decide the same.

#[cfg(not(test))]
pub(crate) use plain::{said, shown};

#[cfg(not(test))]
mod plain {
    use std::borrow::Cow;

    /// What a field says that people read.
    pub(crate) fn said(words: String) -> String {
        words
    }

    /// What a type says of itself.
    pub(crate) fn shown(words: &str) -> Cow<'_, str> {
        Cow::Borrowed(words)
    }
}

#[cfg(test)]
pub(crate) use other::{said, same, shown};

#[cfg(test)]
mod other {
    use std::borrow::Cow;
    use std::cell::Cell;
    use std::fmt::Debug;

    /// Questions of a test that are all asked twice; then one in [`SOME`].
    const ALL: u64 = 100;
    const SOME: u64 = 20;

    thread_local! {
        static CHANGED: Cell<bool> = const { Cell::new(false) };
        static ASKED: Cell<u64> = const { Cell::new(0) };
        static SHOWN: Cell<u64> = const { Cell::new(0) };
    }

    /// Other words of a field; of equal words equal ones, because a text that is there twice is listed once.
    pub(crate) fn said(words: String) -> String {
        if CHANGED.get() { format!("~{}", words.chars().rev().collect::<String>()) } else { words }
    }

    /// Other words of a type, and others each time: not even two of the same owner are equal by what they say.
    pub(crate) fn shown(words: &str) -> Cow<'_, str> {
        if !CHANGED.get() {
            return Cow::Borrowed(words);
        }
        SHOWN.set(SHOWN.get() + 1);
        Cow::Owned(format!("~{}~{}", SHOWN.get(), words.chars().rev().collect::<String>()))
    }

    /// Asks again in other words, and compares what was decided.
    pub(crate) fn same<T, D: Debug + PartialEq>(plain: &T, decided: impl Fn(&T) -> D, again: impl FnOnce() -> T) {
        let asked = ASKED.get();
        ASKED.set(asked + 1);
        if CHANGED.get() || asked >= ALL && !asked.is_multiple_of(SOME) {
            return;
        }
        let other = {
            CHANGED.set(true);
            let _plain = Plain;
            again()
        };
        assert_eq!(decided(plain), decided(&other), "in other words it decides otherwise: a decision reads text made for people");
    }

    struct Plain;

    impl Drop for Plain {
        fn drop(&mut self) {
            CHANGED.set(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::same;
    use crate::reply::Body;
    use crate::verdict::owner::Owner;
    use crate::verdict::{Evidence, Stage};

    #[test]
    #[should_panic(expected = "a decision reads text made for people")]
    fn a_decision_by_the_words_of_an_owner_is_noticed() {
        let decide = || Owner::jail("sshd").to_string().starts_with("fail2ban");
        same(&decide(), |decided| *decided, decide);
    }

    #[test]
    #[should_panic(expected = "a decision reads text made for people")]
    fn a_decision_by_equal_words_is_noticed() {
        let decide = || Stage::Route.to_string() == Stage::Route.to_string();
        same(&decide(), |decided| *decided, decide);
    }

    #[test]
    #[should_panic(expected = "a decision reads text made for people")]
    fn a_decision_by_quoted_evidence_is_noticed() {
        let decide = || Evidence::new("/etc/hosts.deny line 3", "ALL: ALL").source.contains(" line ");
        same(&decide(), |decided| *decided, decide);
    }

    /// All words of an answer that people read become others.
    fn in_other_words(value: &mut Value) {
        let words =
            ["detail", "text", "fix", "effect", "message", "advice", "summary", "diff", "undo", "why_not", "notes", "stuck"];
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value {
                        Value::String(text) if words.contains(&name.as_str()) => *text = format!("~{text}"),
                        Value::Array(texts) if words.contains(&name.as_str()) => texts.clear(),
                        value => in_other_words(value),
                    }
                }
            }
            Value::Array(values) => values.iter_mut().for_each(in_other_words),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn an_exit_status_is_that_of_the_types_of_an_answer() {
        let stage = |stage: &str, verdict: &str| json!({"stage": stage, "verdict": verdict, "detail": "D", "evidence": []});
        let failure = json!({"step": 1, "summary": "S", "message": "M", "rolled_back": ["S"], "stuck": ["S"]});
        let change = |operation: Value, state: &str, stages: Value, failure: Value| {
            let plan = json!({
                "schema": "sshfix.plan/1", "digest": "sha256:0", "operation": operation, "steps": [], "opens": [], "closes": [],
                "paths": [], "confirm": "not-needed", "notes": ["N"],
            });
            json!({
                "schema": "sshfix.change/1", "id": "0a1b", "state": state, "changed": true, "deadline": null, "plan": plan,
                "failure": failure, "verdict": "refuse", "stages": stages, "notes": ["N"],
            })
        };
        let unban = || json!({"unban": {"source": "203.0.113.7"}});
        let fix = || json!({"fix": {"address": "203.0.113.7", "user": null, "port": null}});
        let error = |code: &str| json!({"schema": "sshfix.error/1", "code": code, "message": "M", "advice": "A"});
        let none = || json!([]);
        for (mut answer, status) in [
            (change(unban(), "confirmed", none(), Value::Null), 0),
            (change(unban(), "unchanged", json!([stage("sshd_access", "refuse")]), Value::Null), 0),
            (change(unban(), "unchanged", json!([stage("hosts_access", "refuse")]), Value::Null), 8),
            (change(fix(), "confirmed", none(), Value::Null), 8),
            (change(unban(), "pending", none(), Value::Null), 5),
            (change(unban(), "rolled-back", none(), Value::Null), 0),
            (change(unban(), "rolled-back", none(), failure.clone()), 6),
            (change(unban(), "stuck", none(), failure), 7),
            (error("lockout"), 4),
            (error("not-confirmed"), 3),
            (error("stuck"), 7),
        ] {
            for _ in 0..2 {
                let body: Body = serde_json::from_value(answer.clone()).unwrap_or_else(|e| panic!("{answer:#}: {e}"));
                assert_eq!(body.exit_status(), status, "{answer:#}");
                in_other_words(&mut answer);
            }
        }
    }

    #[test]
    fn a_decision_by_types_stays() {
        let decide = || matches!(Owner::jail("sshd"), Owner::Fail2ban(_));
        same(&decide(), |decided| *decided, decide);
        assert_eq!(Owner::jail("sshd").to_string(), "fail2ban jail sshd", "the words are plain again");
    }
}
