//! What is remembered of a volume's ids, beside its files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::error::{Error, io};
use crate::security::idmap::IdMap;
use crate::sys::file_ids::{Table, capability_shifted};

pub(in super::super) const STORED: &str = "idmap.json";
const JOURNAL: &str = "shift.json";

/// What a change of the owner would take from a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Special {
    /// Permissions with setuid, setgid and sticky bit.
    pub(super) mode: u32,
    /// As it was before the present phase.
    pub(super) capability: Option<Vec<u8>>,
}

/// A shift under way.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Journal {
    /// As of [`IdMap::to_json`]; none: unshifted.
    to: Option<String>,
    phases: Vec<Table>,
    /// By inode.
    special: BTreeMap<u64, Special>,
    files: u64,
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io("read", path)(error)),
    }
}

fn sync_dir(volume: &Path) -> Result<(), Error> {
    File::open(volume).and_then(|dir| dir.sync_all()).map_err(io("write out", volume))
}

fn write(volume: &Path, name: &str, text: &str) -> Result<(), Error> {
    let (path, new) = (volume.join(name), volume.join(format!("{name}.new")));
    let written = || {
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, &path)
    };
    written().map_err(io("write", &path))?;
    sync_dir(volume)
}

fn remove(volume: &Path, name: &str) -> Result<(), Error> {
    let path = volume.join(name);
    match std::fs::remove_file(&path) {
        Ok(()) => sync_dir(volume),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io("remove", path)(error)),
    }
}

fn damaged(volume: &Path, name: &str) -> Error {
    Error::Damaged { path: volume.join(name), reason: "it is no id map of this program".to_owned() }
}

/// The map that the files of `volume` are stored with, if no shift is under way.
///
/// # Errors
/// [`Error::Damaged`], or when it cannot be read.
pub(in super::super) fn stored(volume: &Path) -> Result<Option<IdMap>, Error> {
    let Some(text) = read(&volume.join(STORED))? else { return Ok(None) };
    IdMap::from_json(&text).map(Some).ok_or_else(|| damaged(volume, STORED))
}

impl Journal {
    pub(super) fn new(to: Option<&IdMap>, phases: Vec<Table>, special: BTreeMap<u64, Special>, files: u64) -> Self {
        Self { to: to.map(IdMap::to_json), phases, special, files }
    }

    pub(super) fn read(volume: &Path) -> Result<Option<Self>, Error> {
        let Some(text) = read(&volume.join(JOURNAL))? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).map_err(|_| damaged(volume, JOURNAL))
    }

    pub(super) fn write(&self, volume: &Path) -> Result<(), Error> {
        let text = serde_json::to_string(self).map_err(|error| io("write", volume.join(JOURNAL))(error.into()))?;
        write(volume, JOURNAL, &text)
    }

    pub(super) fn remove(volume: &Path) -> Result<(), Error> {
        remove(volume, JOURNAL)
    }

    /// Files and directories, by their names.
    pub(super) fn files(&self) -> u64 {
        self.files
    }

    /// Phases that are left.
    pub(super) fn left(&self) -> u64 {
        self.phases.len() as u64
    }

    /// Of the present phase; `None`: all are done.
    pub(super) fn table(&self) -> Option<&Table> {
        self.phases.first()
    }

    pub(super) fn special(&self) -> &BTreeMap<u64, Special> {
        &self.special
    }

    /// The present phase is done; whether there is another one.
    pub(super) fn next(&mut self) -> bool {
        if self.phases.is_empty() {
            return false;
        }
        let table = self.phases.remove(0);
        for special in self.special.values_mut() {
            special.capability =
                special.capability.as_deref().map(|value| capability_shifted(value, |id| table.user(id)));
        }
        !self.phases.is_empty()
    }

    /// All phases are done: records where the files are.
    pub(super) fn done(&self, volume: &Path) -> Result<(), Error> {
        match &self.to {
            Some(map) => write(volume, STORED, map),
            None => remove(volume, STORED),
        }
    }
}
