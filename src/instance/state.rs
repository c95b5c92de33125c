//! The states of an instance.
//!
//! ```text
//!                  start                      ready
//!   Stopped ───────────────> Starting ─────────────────> Running <──────────┐
//!      ^  ^                     │                         │   │  thaw       │ timeout
//!      │  └─────────────────────┘ undo          freeze    │   │             │
//!      │                                   Frozen <───────┘   │ stop        │
//!      │                                     │                v             │
//!      └─────────────────────────────────────┴──────────── Stopping ────────┘
//!                     monitor gone, root unmounted
//!
//!   Error: something is left that needs a person (an undo that failed); start tries again.
//! ```
//! A reboot from inside is Running -> Stopping -> Starting -> Running with the reason kept in the actor.

use crate::lxc;

/// The state as the API shows it. Codes: LXD's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Not running.
    Stopped,
    /// On the way up.
    Starting,
    /// Up.
    Running,
    /// On the way down.
    Stopping,
    /// All its processes are held.
    Frozen,
    /// Something needs a person; see the log.
    Error,
}

impl Status {
    /// The API's code.
    pub fn code(self) -> u16 {
        match self {
            Self::Stopped => 102,
            Self::Running => 103,
            Self::Starting => 106,
            Self::Stopping => 107,
            Self::Frozen => 110,
            Self::Error => 112,
        }
    }

    /// The API's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Stopped => "Stopped",
            Self::Running => "Running",
            Self::Starting => "Starting",
            Self::Stopping => "Stopping",
            Self::Frozen => "Frozen",
            Self::Error => "Error",
        }
    }

    /// Whether it has processes.
    pub fn is_up(self) -> bool {
        match self {
            Self::Running | Self::Stopping | Self::Frozen => true,
            Self::Stopped | Self::Starting | Self::Error => false,
        }
    }
}

/// What everybody may know about an instance at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Its status.
    pub status: Status,
    /// Its init in the host's numbering, 0 when down.
    pub pid: i32,
}

impl Snapshot {
    /// Down.
    pub const STOPPED: Self = Self { status: Status::Stopped, pid: 0 };
}

/// What liblxc's state means at adoption.
pub(super) fn adopted(state: lxc::State) -> Status {
    match state {
        lxc::State::Stopped => Status::Stopped,
        lxc::State::Running | lxc::State::Starting | lxc::State::Thawed | lxc::State::Freezing => Status::Running,
        lxc::State::Frozen => Status::Frozen,
        lxc::State::Stopping | lxc::State::Aborting => Status::Stopping,
    }
}
