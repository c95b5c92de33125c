//! What a request does in a state: pure policy, no I/O.

use super::error::Error;
use super::state::Status;

/// A verb that changes the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Bring it up.
    Start,
    /// Ask init to shut down.
    Shutdown,
    /// Kill it.
    Kill,
    /// Hold all its processes.
    Freeze,
    /// Let them go on.
    Unfreeze,
    /// Remove it.
    Delete,
    /// Change its definition.
    Update,
    /// Give it another name.
    Rename,
}

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// Do it.
    Allow,
    /// The same is happening already: wait for its end.
    Join,
    /// Refuse it, with the reason.
    Deny(Error),
}

/// Decides about `verb` in `status`.
pub fn decide(verb: Verb, status: Status) -> Decision {
    use Decision::{Allow, Deny, Join};
    match (verb, status) {
        (Verb::Start, Status::Stopped | Status::Error) => Allow,
        (Verb::Start, Status::Starting | Status::Running | Status::Frozen) => Deny(Error::AlreadyRunning),
        (Verb::Start, Status::Stopping) => Deny(Error::Busy { status }),

        (Verb::Shutdown | Verb::Kill, Status::Running | Status::Frozen) => Allow,
        (Verb::Shutdown, Status::Stopping) => Join,
        // A kill makes a shutdown that takes too long short.
        (Verb::Kill, Status::Stopping) => Allow,
        (Verb::Shutdown | Verb::Kill, Status::Stopped | Status::Error) => Deny(Error::AlreadyStopped),
        (Verb::Shutdown | Verb::Kill, Status::Starting) => Deny(Error::Busy { status }),

        (Verb::Freeze, Status::Running) => Allow,
        (Verb::Freeze, Status::Frozen) => Deny(Error::AlreadyFrozen),
        (Verb::Unfreeze, Status::Frozen) => Allow,
        (Verb::Unfreeze, Status::Running) => Deny(Error::NotFrozen),
        (Verb::Freeze | Verb::Unfreeze, Status::Starting | Status::Stopping) => Deny(Error::Busy { status }),
        (Verb::Freeze | Verb::Unfreeze, Status::Stopped | Status::Error) => Deny(Error::NotRunning),

        (Verb::Delete, Status::Stopped | Status::Error) => Allow,
        (Verb::Delete, Status::Running | Status::Frozen | Status::Starting | Status::Stopping) => Deny(Error::Running),

        (Verb::Update, Status::Stopped | Status::Error | Status::Running | Status::Frozen) => Allow,
        (Verb::Update, Status::Starting | Status::Stopping) => Deny(Error::Busy { status }),

        (Verb::Rename, Status::Stopped | Status::Error) => Allow,
        (Verb::Rename, Status::Running | Status::Frozen) => Deny(Error::RenameRunning),
        (Verb::Rename, Status::Starting | Status::Stopping) => Deny(Error::Busy { status }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Status; 6] =
        [Status::Stopped, Status::Starting, Status::Running, Status::Stopping, Status::Frozen, Status::Error];

    #[test]
    fn nothing_is_deleted_while_it_has_processes() {
        for status in ALL {
            let allowed = decide(Verb::Delete, status) == Decision::Allow;
            assert_eq!(allowed, matches!(status, Status::Stopped | Status::Error), "{status:?}");
        }
    }

    #[test]
    fn a_kill_is_possible_whenever_something_runs() {
        for status in ALL.into_iter().filter(|s| s.is_up()) {
            assert_eq!(decide(Verb::Kill, status), Decision::Allow, "{status:?}");
        }
    }

    #[test]
    fn a_started_one_is_not_started_again() {
        assert_eq!(decide(Verb::Start, Status::Running), Decision::Deny(Error::AlreadyRunning));
        assert_eq!(decide(Verb::Start, Status::Frozen), Decision::Deny(Error::AlreadyRunning));
    }
}
