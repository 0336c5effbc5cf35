//! The life of a change and of its steps: the stages, and what may follow what. Stores nothing and acts on nothing.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::words;

/// Where a change is in its life; what a request for a change is answered with is [`super::ChangeState`]. Stored and sent as its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeStage {
    /// Its steps are on disk, nothing was done.
    Begun,
    /// Steps are being applied.
    Applying,
    /// All steps are done and the host was read back as predicted.
    Verified,
    /// Waits for confirm until its deadline.
    Pending,
    /// Stays. End.
    Confirmed,
    /// Steps are being taken back, newest first.
    RollingBack,
    /// The host is as before. End.
    RolledBack,
    /// A step could not be taken back.
    Stuck,
    /// A person took a stuck change off our hands (`rollback ID --abandon`). End.
    Abandoned,
}

impl ChangeStage {
    /// All of them.
    pub const ALL: [ChangeStage; 9] = [
        ChangeStage::Begun,
        ChangeStage::Applying,
        ChangeStage::Verified,
        ChangeStage::Pending,
        ChangeStage::Confirmed,
        ChangeStage::RollingBack,
        ChangeStage::RolledBack,
        ChangeStage::Stuck,
        ChangeStage::Abandoned,
    ];

    /// The whole table of legal transitions.
    pub fn next(self) -> &'static [ChangeStage] {
        use ChangeStage::{Abandoned, Applying, Begun, Confirmed, Pending, RolledBack, RollingBack, Stuck, Verified};
        match self {
            // Straight to rolled-back: no step was started, so there is nothing to take back.
            Begun => &[Applying, RolledBack],
            Applying => &[Verified, RollingBack],
            Verified => &[Pending, Confirmed, RollingBack],
            Pending => &[Confirmed, RollingBack],
            // To itself: recovery goes on where a rollback was interrupted.
            RollingBack => &[RollingBack, RolledBack, Stuck],
            // Tried again by hand, or given up.
            Stuck => &[RollingBack, Abandoned],
            Confirmed | RolledBack | Abandoned => &[],
        }
    }

    /// Whether that can follow.
    pub fn may_become(self, to: ChangeStage) -> bool {
        self.next().contains(&to)
    }

    /// Whether nothing can follow.
    pub fn is_end(self) -> bool {
        self.next().is_empty()
    }

    /// As it is stored and shown.
    pub fn name(self) -> &'static str {
        match self {
            ChangeStage::Begun => "begun",
            ChangeStage::Applying => "applying",
            ChangeStage::Verified => "verified",
            ChangeStage::Pending => "pending",
            ChangeStage::Confirmed => "confirmed",
            ChangeStage::RollingBack => "rolling-back",
            ChangeStage::RolledBack => "rolled-back",
            ChangeStage::Stuck => "stuck",
            ChangeStage::Abandoned => "abandoned",
        }
    }
}

impl fmt::Display for ChangeStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&words::shown(self.name()))
    }
}

/// What happened to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepEvent {
    /// On disk, not touched. Not in the journal: a step without an event is planned.
    Planned,
    /// Written just before it is applied: from here on it may have happened.
    Started,
    /// It answered `Done::Changed`: there is something to take back.
    DoneChanged,
    /// It answered `Done::Already`: there is nothing to take back.
    DoneAlready,
    /// It answered an error: it says that it did not happen.
    Failed,
    /// Its inverse is about to be applied.
    UndoStarted,
    /// Its inverse is done.
    Undone,
    /// Its inverse failed; the detail says what a person must do.
    UndoFailed,
}

impl StepEvent {
    /// All of them.
    pub const ALL: [StepEvent; 8] = [
        StepEvent::Planned,
        StepEvent::Started,
        StepEvent::DoneChanged,
        StepEvent::DoneAlready,
        StepEvent::Failed,
        StepEvent::UndoStarted,
        StepEvent::Undone,
        StepEvent::UndoFailed,
    ];

    /// The whole table of legal events after this one, with the state the change must be in.
    pub fn next(self) -> &'static [(StepEvent, ChangeStage)] {
        use ChangeStage::{Applying, RollingBack};
        use StepEvent::{DoneAlready, DoneChanged, Failed, Started, UndoFailed, UndoStarted, Undone};
        match self {
            StepEvent::Planned => &[(Started, Applying)],
            Started => &[(DoneChanged, Applying), (DoneAlready, Applying), (Failed, Applying), (UndoStarted, RollingBack)],
            DoneChanged | Failed | UndoFailed => &[(UndoStarted, RollingBack)],
            // Again after a crash in the middle of it.
            UndoStarted => &[(Undone, RollingBack), (UndoFailed, RollingBack), (UndoStarted, RollingBack)],
            DoneAlready | Undone => &[],
        }
    }

    /// Whether that can follow while the change is there.
    pub fn may_become(self, event: StepEvent, stage: ChangeStage) -> bool {
        self.next().contains(&(event, stage))
    }

    /// As it is stored and shown.
    pub fn name(self) -> &'static str {
        match self {
            StepEvent::Planned => "planned",
            StepEvent::Started => "started",
            StepEvent::DoneChanged => "done-changed",
            StepEvent::DoneAlready => "done-already",
            StepEvent::Failed => "failed",
            StepEvent::UndoStarted => "undo-started",
            StepEvent::Undone => "undone",
            StepEvent::UndoFailed => "undo-failed",
        }
    }
}

impl fmt::Display for StepEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&words::shown(self.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_and_events_are_sent_as_they_are_stored() {
        for stage in ChangeStage::ALL {
            assert_eq!(serde_json::to_value(stage).ok(), Some(stage.name().into()));
        }
        for event in StepEvent::ALL {
            assert_eq!(serde_json::to_value(event).ok(), Some(event.name().into()));
        }
    }
}
