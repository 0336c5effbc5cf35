//! How long somebody waits for an answer: one deadline for everything that one question reads, and a word that nobody waits any more.
//! Held by the thread that works on it, so that whatever starts a program or waits for the kernel can ask. Stops nothing by itself: at
//! each safe point who reads asks. A change that has begun has no such end.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Of one question.
#[derive(Clone, Debug)]
pub struct Patience {
    time: Duration,
    until: Instant,
    gone: Arc<AtomicBool>,
    cut: Arc<AtomicBool>,
}

thread_local! {
    static OF_THIS_THREAD: RefCell<Option<Patience>> = const { RefCell::new(None) };
}

impl Patience {
    /// From now on.
    pub fn new(time: Duration) -> Self {
        Self { time, until: Instant::now() + time, gone: Arc::default(), cut: Arc::default() }
    }

    /// The time begins now.
    #[must_use]
    pub fn begun(mut self) -> Self {
        self.until = Instant::now() + self.time;
        self
    }

    /// Whoever asked is gone.
    pub fn give_up(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// Whether whoever asked is gone.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Whether something was not read, or not to its end, because the time was over or nobody waited.
    pub fn was_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// The time it was given.
    pub fn time(&self) -> Duration {
        self.time
    }

    fn left(&self) -> Duration {
        if self.is_gone() { Duration::ZERO } else { self.until.saturating_duration_since(Instant::now()) }
    }
}

/// Works with this patience; what is started on other threads must be given it there ([`current`]).
pub fn with<T>(patience: Option<Patience>, work: impl FnOnce() -> T) -> T {
    /// Also after a panic: the thread works on for others.
    struct Before(Option<Patience>);
    impl Drop for Before {
        fn drop(&mut self) {
            OF_THIS_THREAD.set(self.0.take());
        }
    }
    let _before = Before(OF_THIS_THREAD.replace(patience));
    work()
}

/// That of this thread; none where the work has no end but its own.
pub fn current() -> Option<Patience> {
    OF_THIS_THREAD.with_borrow(Clone::clone)
}

/// Whether to stop reading here. Whoever asks and hears yes leaves something out, which is remembered.
pub fn is_over() -> bool {
    OF_THIS_THREAD.with_borrow(|patience| {
        let over = patience.as_ref().filter(|patience| patience.left().is_zero());
        over.inspect(|patience| patience.cut.store(true, Ordering::Relaxed)).is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_and_a_client_that_is_gone_end_it_and_what_has_begun_has_no_end() {
        assert!(!is_over());
        let short = Patience::new(Duration::ZERO);
        with(Some(short.clone()), || {
            with(None, || assert!(!is_over()));
            assert!(!short.was_cut());
            assert!(is_over());
        });
        assert!(short.was_cut() && !short.is_gone() && current().is_none());
        let long = Patience::new(Duration::from_mins(10));
        with(Some(long.clone()), || {
            assert!(!is_over());
            long.give_up();
            assert!(is_over());
            let passed_on = current();
            std::thread::scope(|scope| scope.spawn(move || with(passed_on, || assert!(is_over()))).join()).unwrap_or_default();
        });
        assert!(long.was_cut() && long.is_gone());
    }
}
