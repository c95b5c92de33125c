//! Warnings: what is wrong without anything having failed, told until it is mended or somebody says that he knows.
//!
//! Any room may [raise](Database::raise_warning) one and [resolve](Database::resolve_warnings) it. There is one for each kind
//! and object: raised again it counts, and what was resolved is new again.

use std::collections::BTreeMap;
use std::sync::Arc;

use diesel::prelude::*;
use uuid::Uuid;

use super::error::Error;
use super::schema::warnings;
use super::{Database, Seconds, Tx, now};
use crate::names::ProjectName;

/// How long a resolved warning is kept, seconds.
const KEPT: Seconds = 24 * 3600;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Something is less good than it could be.
    Low,
    /// Something does not work for somebody.
    Moderate,
    /// Something does not work.
    High,
}

impl Severity {
    /// As the API has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Moderate => "moderate",
            Self::High => "high",
        }
    }
}

/// What kind of thing a warning is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WarningKind {
    /// A managed network is not up.
    NetworkUnavailable,
    /// A part of a managed network was gone and has been made again.
    NetworkRepaired,
    /// Something on the host keeps a network's packets from passing.
    NetworkObstructed,
    /// A network's addresses are those of something else, too.
    NetworkOverlap,
    /// What a storage pool lies on is not there.
    PoolUnavailable,
    /// Nothing can be written to a storage pool any more.
    PoolReadOnly,
    /// An image server cannot be asked.
    ImageServerUnavailable,
}

impl WarningKind {
    const ALL: [Self; 7] = [
        Self::NetworkUnavailable,
        Self::NetworkRepaired,
        Self::NetworkObstructed,
        Self::NetworkOverlap,
        Self::PoolUnavailable,
        Self::PoolReadOnly,
        Self::ImageServerUnavailable,
    ];

    /// The text by which the API shows it, and the database knows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NetworkUnavailable => "Network unavailable",
            Self::NetworkRepaired => "Network repaired",
            Self::NetworkObstructed => "Network traffic obstructed by the host",
            Self::NetworkOverlap => "Network addresses overlap",
            Self::PoolUnavailable => "Storage pool unavailable",
            Self::PoolReadOnly => "Storage pool read-only",
            Self::ImageServerUnavailable => "Image server unavailable",
        }
    }

    /// How bad it is.
    pub fn severity(self) -> Severity {
        match self {
            Self::NetworkUnavailable | Self::PoolUnavailable | Self::PoolReadOnly => Severity::High,
            Self::NetworkObstructed | Self::NetworkOverlap => Severity::Moderate,
            Self::NetworkRepaired | Self::ImageServerUnavailable => Severity::Low,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Where a warning stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WarningStatus {
    /// Nobody has said that he knows.
    New,
    /// Somebody has.
    Acknowledged,
    /// It is over.
    Resolved,
}

impl WarningStatus {
    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Acknowledged => "acknowledged",
            Self::Resolved => "resolved",
        }
    }

    /// From that.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::New, Self::Acknowledged, Self::Resolved].into_iter().find(|status| status.as_str() == text)
    }
}

/// A warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Its number.
    pub uuid: Uuid,
    /// Of what kind.
    pub kind: WarningKind,
    /// The project of the object, if it has one.
    pub project: Option<ProjectName>,
    /// URL of the object; empty for the host.
    pub entity: String,
    /// Where it stands.
    pub status: WarningStatus,
    /// What was said last.
    pub message: String,
    /// How often it was raised.
    pub count: i64,
    /// When first.
    pub first_seen: Seconds,
    /// When last.
    pub last_seen: Seconds,
}

#[derive(Queryable, Insertable, Selectable, AsChangeset)]
#[diesel(table_name = warnings, primary_key(uuid))]
struct Row {
    uuid: String,
    kind: String,
    project: String,
    entity: String,
    status: String,
    message: String,
    count: i64,
    first_seen: i64,
    last_seen: i64,
}

impl Row {
    fn of(record: &Warning) -> Self {
        Self {
            uuid: record.uuid.to_string(),
            kind: record.kind.as_str().to_owned(),
            project: record.project.as_ref().map(ToString::to_string).unwrap_or_default(),
            entity: record.entity.clone(),
            status: record.status.as_str().to_owned(),
            message: record.message.clone(),
            count: record.count,
            first_seen: record.first_seen,
            last_seen: record.last_seen,
        }
    }

    fn record(self) -> Result<Warning, Error> {
        let what = format!("warnings/{}", self.uuid);
        let bad = |reason: String| Error::Row { what: what.clone(), reason };
        let project = (!self.project.is_empty()).then(|| ProjectName::new(self.project));
        Ok(Warning {
            uuid: self.uuid.parse().map_err(|_| bad("its number is no UUID".to_owned()))?,
            kind: WarningKind::parse(&self.kind).ok_or_else(|| bad(format!("unknown kind {:?}", self.kind)))?,
            project: project.transpose().map_err(|error| bad(error.to_string()))?,
            status: WarningStatus::parse(&self.status)
                .ok_or_else(|| bad(format!("unknown status {:?}", self.status)))?,
            entity: self.entity,
            message: self.message,
            count: self.count,
            first_seen: self.first_seen,
            last_seen: self.last_seen,
        })
    }
}

/// All of them; a damaged one is left out and reported.
pub(super) fn load(
    connection: &mut SqliteConnection,
    damaged: &mut Vec<Error>,
) -> Result<BTreeMap<Uuid, Arc<Warning>>, Error> {
    let mut found = BTreeMap::new();
    for row in warnings::table.select(Row::as_select()).load(connection)? {
        match row.record() {
            Ok(record) => drop(found.insert(record.uuid, Arc::new(record))),
            Err(error) => damaged.push(error),
        }
    }
    Ok(found)
}

impl Tx<'_> {
    /// Adds or replaces a warning.
    ///
    /// # Errors
    /// When the statement fails.
    pub fn put_warning(&mut self, record: Warning) -> Result<(), Error> {
        diesel::replace_into(warnings::table).values(&Row::of(&record)).execute(self.connection)?;
        Arc::make_mut(&mut self.model.warnings).insert(record.uuid, Arc::new(record));
        Ok(())
    }

    /// Removes a warning.
    ///
    /// # Errors
    /// When the statement fails.
    pub fn delete_warning(&mut self, uuid: Uuid) -> Result<(), Error> {
        diesel::delete(warnings::table.find(uuid.to_string())).execute(self.connection)?;
        Arc::make_mut(&mut self.model.warnings).remove(&uuid);
        Ok(())
    }
}

impl Database {
    /// Tells something about the object at `entity` (its URL; empty: the host). Told again, it is the same warning with
    /// another message. A failure to write it is logged: a warning stops nothing.
    pub async fn raise_warning(&self, kind: WarningKind, project: Option<&ProjectName>, entity: &str, message: &str) {
        let (project, entity, message) = (project.cloned(), entity.to_owned(), message.to_owned());
        let written = self.write(move |tx| {
            let same = |w: &&Arc<Warning>| w.kind == kind && w.project == project && w.entity == entity;
            let record = match tx.model().warnings.values().find(same) {
                Some(old) => Warning {
                    message,
                    count: old.count + 1,
                    last_seen: now(),
                    // What was acknowledged stays so.
                    status: if old.status == WarningStatus::Resolved { WarningStatus::New } else { old.status },
                    ..(**old).clone()
                },
                None => Warning {
                    uuid: Uuid::new_v4(),
                    kind,
                    project,
                    entity,
                    status: WarningStatus::New,
                    message,
                    count: 1,
                    first_seen: now(),
                    last_seen: now(),
                },
            };
            tx.put_warning(record)
        });
        if let Err(error) = written.await {
            tracing::error!(%error, "writing a warning");
        }
    }

    /// What `kind` says of the object at `entity` is over. Nothing is written where there is nothing.
    pub async fn resolve_warnings(&self, kind: WarningKind, project: Option<&ProjectName>, entity: &str) {
        let is_it = {
            let (project, entity) = (project.cloned(), entity.to_owned());
            move |w: &Warning| {
                let open = w.status != WarningStatus::Resolved;
                open && w.kind == kind && w.project == project && w.entity == entity
            }
        };
        if !self.model().warnings.values().any(|warning| is_it(warning)) {
            return;
        }
        let written = self.write(move |tx| {
            let over: Vec<_> = tx.model().warnings.values().filter(|warning| is_it(warning)).cloned().collect();
            over.into_iter().try_for_each(|warning| {
                tx.put_warning(Warning { status: WarningStatus::Resolved, last_seen: now(), ..(*warning).clone() })
            })
        });
        if let Err(error) = written.await {
            tracing::error!(%error, "resolving a warning");
        }
    }

    /// Forgets all that is said of an object that is gone, and what was over a day ago.
    pub async fn forget_warnings(&self, gone: Option<&str>) {
        let gone = gone.map(str::to_owned);
        let is_old = move |w: &Warning| {
            let over = w.status == WarningStatus::Resolved && w.last_seen < now() - KEPT;
            over || gone.as_ref().is_some_and(|gone| w.entity == *gone)
        };
        if !self.model().warnings.values().any(|warning| is_old(warning)) {
            return;
        }
        let written = self.write(move |tx| {
            let old: Vec<_> = tx.model().warnings.values().filter(|w| is_old(w)).map(|w| w.uuid).collect();
            old.into_iter().try_for_each(|uuid| tx.delete_warning(uuid))
        });
        if let Err(error) = written.await {
            tracing::error!(%error, "forgetting old warnings");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_counts_is_resolved_and_comes_again() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (db, _) = Database::open(dir.path()).unwrap();
            let project = ProjectName::default();
            let kind = WarningKind::NetworkObstructed;
            let url = "/1.0/networks/n1";
            let only = |db: &Database| db.model().warnings.values().next().cloned().unwrap();
            db.raise_warning(kind, Some(&project), url, "first").await;
            db.raise_warning(kind, Some(&project), url, "second").await;
            assert_eq!((only(&db).count, only(&db).message.as_str()), (2, "second"));
            db.resolve_warnings(WarningKind::NetworkOverlap, Some(&project), url).await;
            assert_eq!(only(&db).status, WarningStatus::New);
            db.resolve_warnings(kind, Some(&project), url).await;
            assert_eq!(only(&db).status, WarningStatus::Resolved);
            db.raise_warning(kind, Some(&project), url, "third").await;
            assert_eq!((only(&db).status, only(&db).count), (WarningStatus::New, 3));
            assert_eq!(db.model().warnings.len(), 1);
        });
        let (db, damaged) = Database::open(dir.path()).unwrap();
        assert!(damaged.is_empty());
        assert_eq!(db.model().warnings.values().next().unwrap().message, "third");
        runtime.block_on(db.forget_warnings(Some("/1.0/networks/n1")));
        assert!(db.model().warnings.is_empty());
    }

    #[test]
    fn kinds_read_back() {
        for kind in WarningKind::ALL {
            assert_eq!(WarningKind::parse(kind.as_str()), Some(kind));
        }
    }
}
