//! What clients write on the volume of an instance's root (`/1.0/storage-pools/<pool>/volumes/container/<instance>`): free
//! text, and keys of theirs. It lies in the instance's row as one of [`super::update::is_own`], so it goes where that goes.

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::manager::Manager;
use crate::api::wire::Config;
use crate::config;
use crate::db::Instance;
use crate::events::lifecycle::{Lifecycle, Requestor};
use crate::names::InstanceKey;

/// The key; its value is JSON.
pub(super) const RECORD: &str = "volatile.root_volume";

/// What is written on a root volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RootVolume {
    /// Free text.
    pub description: String,
    /// `user.*`.
    pub config: Config,
}

impl RootVolume {
    /// That of an instance; nothing, when nobody has written any.
    pub fn of(record: &Instance) -> Self {
        record.config.get(RECORD).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }
}

impl Manager {
    /// Changes what is written on an instance's root volume to what `change` makes of it.
    ///
    /// # Errors
    /// Of the change, or with the first key that is not a client's own; then all is as it was.
    pub async fn change_root_volume(
        &self,
        key: &InstanceKey,
        change: impl FnOnce(RootVolume) -> Result<RootVolume, Error> + Send + 'static,
        requestor: Option<&Requestor>,
    ) -> Result<(), Error> {
        let (context, of) = (self.context(), key.clone());
        let pool = context
            .db
            .write(move |tx| {
                let mut record = (**tx.model().instances.get(&of).ok_or(Error::NotFound)?).clone();
                let mut new = change(RootVolume::of(&record))?;
                // How clients take a key away.
                new.config.retain(|_, value| !value.is_empty());
                config::validate_root_volume(&new.config)?;
                // Maps of text; `NotFound` would be seen by every test.
                let text = serde_json::to_string(&new).map_err(|_| Error::NotFound)?;
                if new == RootVolume::default() {
                    record.config.remove(RECORD);
                } else {
                    record.config.insert(RECORD.to_owned(), text);
                }
                let pool = record.pool.clone();
                tx.put_instance(record)?;
                Ok::<_, Error>(pool)
            })
            .await?;
        context.bus.lifecycle(Lifecycle {
            action: "storage-volume-updated",
            // As LXD has it: its word for the directory, not for the type.
            source: format!("/1.0/storage-pools/{}/volumes/containers/{}", pool.in_url(), key.name),
            project: &key.project,
            context: serde_json::Map::new(),
            requestor,
        });
        Ok(())
    }
}
