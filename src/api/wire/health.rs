//! `/1.0/health`, ours: what of this host works for containers.

use serde::{Deserialize, Serialize};

/// The answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// Nothing that is needed is missing.
    pub healthy: bool,
    /// All that was looked at, in the order it is shown.
    pub checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Check {
    /// `kernel`, `ids`, `tools` or `pools`.
    pub group: String,
    /// Its name within the group; never changes, for scripts.
    pub name: String,
    /// Whether it is there.
    pub state: CheckState,
    /// Without it no container runs.
    pub needed: bool,
    /// What was found, in words.
    pub found: String,
    /// What its absence costs; empty when it is there.
    pub cost: String,
    /// How to mend it; empty when it is there.
    pub mend: String,
}

/// How it stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    /// It is there and works.
    Ok,
    /// It works, but somebody should look at it.
    Warning,
    /// It is not there, or does not work.
    #[default]
    Missing,
}
