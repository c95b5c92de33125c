//! Image servers, and what comes from them: found, downloaded once for all who wait, kept, brought up to date, forgotten.
//!
//! ```text
//!   Source ──find (lists kept on disk)──> Found: fingerprint, files ──here already?──> its row
//!                                           └──one Flight──> store, row ──> its row
//!   every interval: find again ──another fingerprint──> bring, move the names, remove the old one
//!   every day unused: remove what was only cached
//! ```
//! Nothing that is just being unpacked is taken away by itself ([`crate::image::Hold`]).

mod bring;
mod error;
mod flight;
mod found;
mod index;
mod keep;
mod push;
mod signature;
mod source;
mod streams;
mod update;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::db::{Image, Phase, Seconds, WarningKind};
use crate::fetch::Client;
use crate::image::Hold;
use crate::instance::Context;
use crate::names::ProjectName;
use crate::ops::Operations;
use crate::project;

pub use error::Error;
pub use flight::Progress;
pub use found::Found;
pub use keep::{Keep, keep, remove};
pub use push::Push;
pub use source::{Asked, Source, can_follow};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use streams::fuzz as fuzz_streams;

use flight::{Flight, Flights};
use found::Wish;
use index::Lists;
use signature::Keys;

/// So often a download that ended well is looked for before something is wrong.
const TRIES: usize = 3;

/// Image servers, as the daemon sees them.
pub struct Remotes {
    context: Arc<Context>,
    ops: Operations,
    lists: Lists,
    flights: Flights,
    /// When the images of each project were last brought up to date, since the daemon's start.
    updated_at: Mutex<BTreeMap<ProjectName, Seconds>>,
    /// One round at a time.
    round: tokio::sync::Mutex<()>,
}

impl Remotes {
    /// Nothing is asked yet. What a crash left of lists is tidied up.
    pub fn new(context: Arc<Context>, ops: Operations) -> Self {
        let dir = context.dir.streams();
        index::tidy(&dir);
        Self {
            lists: Lists::new(dir),
            context,
            ops,
            flights: Flights::default(),
            updated_at: Mutex::default(),
            round: tokio::sync::Mutex::default(),
        }
    }

    /// A client for a source, by the proxies of now.
    async fn client(&self, source: &Source) -> Result<Client, Error> {
        let (trust, proxies) = (source.trust.clone(), source::proxies(&self.context.db.model().config));
        blocking(move || Ok(Client::new(&trust, &proxies)?)).await
    }

    /// Asks for an image; `any`: of whatever architecture. When the server is away, what it said before counts, and a warning
    /// says so.
    ///
    /// # Errors
    /// When nobody knows it, or it is not for this host.
    pub async fn find(&self, project: &ProjectName, source: &Source, any: bool, fresh: bool) -> Result<Found, Error> {
        let client = self.client(source).await?;
        let (model, key) = (self.context.db.model(), "images.default_architecture");
        let own = model.projects.get(project).and_then(|record| record.config.get(key));
        let wish = Wish {
            host: wanted_architectures(self.context.host.architectures, any),
            keys: Keys::of(&model.config, &source.servers),
            preferred: own.or_else(|| model.config.get(key)).map_or("", String::as_str),
            fresh: if fresh { Duration::ZERO } else { index::FRESH },
        };
        let result = found::find(&client, &self.lists, source, &wish).await;
        let (db, server) = (&self.context.db, source.shown());
        match result {
            Ok((found, None)) => {
                db.resolve_warnings(WarningKind::ImageServerUnavailable, None, &server).await;
                Ok(found)
            }
            Ok((found, Some(error))) => {
                let message = format!("{error}; what it said before is used");
                tracing::warn!(%server, %error, "an image server is away: what it said before is used");
                db.raise_warning(WarningKind::ImageServerUnavailable, None, &server, &message).await;
                Ok(found)
            }
            Err(error) => Err(error),
        }
    }

    /// The image of a name that came from there before; for when nobody can be asked.
    fn cached(&self, project: &ProjectName, source: &Source) -> Option<Arc<Image>> {
        let is_it = |image: &&Arc<Image>| {
            image.project == *project
                && image.phase == Phase::Ready
                && image.update_source.as_ref().is_some_and(|origin| source.is_of(origin))
        };
        self.context.db.model().images.values().filter(is_it).max_by_key(|image| image.created_at).cloned()
    }

    /// Brings an image here for a project, unless it is here; many who want the same wait for one download. It stays for as
    /// long as the answer is held.
    ///
    /// # Errors
    /// With the reason; then nothing of it is here.
    pub async fn load(
        self: &Arc<Self>,
        project: &ProjectName,
        source: &Source,
        keep: &Keep,
        fresh: bool,
        told: &(dyn Fn(&Progress) + Send + Sync),
    ) -> Result<(Arc<Image>, Hold), Error> {
        match self.try_load(project, source, keep, fresh, told).await {
            // The list of an hour ago does not have it, or names files that are gone since.
            Err(error) if (error.is_missing() || error.is_skipped()) && !fresh && source.has_lists() => {
                self.try_load(project, source, keep, true, told).await
            }
            result => result,
        }
    }

    async fn try_load(
        self: &Arc<Self>,
        project: &ProjectName,
        source: &Source,
        keep: &Keep,
        fresh: bool,
        told: &(dyn Fn(&Progress) + Send + Sync),
    ) -> Result<(Arc<Image>, Hold), Error> {
        // One that is only kept for others need not run here.
        let found = match self.find(project, source, !keep.cached, fresh).await {
            Ok(found) => found,
            Err(error) => {
                let Some(image) = self.cached(project, source).filter(|_| error.is_away() && !fresh) else {
                    return Err(error);
                };
                tracing::warn!(%error, image = %image.fingerprint, "an image server is away: the image from before is used");
                let hold = self.context.images.hold(&image.fingerprint);
                return Ok((image, hold));
            }
        };
        let hold = self.context.images.hold(&found.fingerprint);
        for _ in 0..TRIES {
            if let Some(image) = keep::adopt(&self.context, project, &found, keep).await? {
                return Ok((image, hold));
            }
            match self.flight(project, source, &found, keep).wait(told).await {
                Err(error) if error.is_of_another(project, keep.replaces.as_ref().map(|old| &old.fingerprint)) => {}
                result => result?,
            }
        }
        // It goes as soon as it comes: somebody deletes it.
        Err(Error::NotFound)
    }

    fn flight(self: &Arc<Self>, project: &ProjectName, source: &Source, found: &Found, keep: &Keep) -> Arc<Flight> {
        let key = (project.clone(), found.fingerprint.clone());
        self.flights.join(key, |meter| {
            let (own, project, source) = (Arc::clone(self), project.clone(), source.clone());
            let (found, mut keep) = (found.clone(), keep.clone());
            // Those are put there when it is adopted, for each who waits.
            keep.aliases.clear();
            async move {
                // Before anything is fetched in vain; what counts is asked when it is written down.
                project::check_more(&own.context.db.model(), &project, found.place.size())?;
                let teller = Arc::clone(&meter);
                let client = own.client(&source).await?.telling(Arc::new(move |resumed| teller.resumed(resumed)));
                let told = |part, done, total| meter.told(part, done, total);
                let (received, filename) = bring::bring(&client, &own.context.images, &source, &found, &told).await?;
                if keep.filename.is_empty() {
                    let said = (!found.filename.is_empty()).then(|| found.filename.clone());
                    keep.filename = said.or(filename).unwrap_or_default();
                }
                let kept = async move {
                    let (replaces, requestor) = (keep.replaces.clone(), keep.requestor.clone());
                    keep::keep(&own.context, &project, received, Some(&found), keep).await?;
                    match replaces {
                        Some(old) => own.remove_replaced(&old, requestor.as_ref()).await,
                        None => Ok(()),
                    }
                };
                match to_the_end(kept).await {
                    // Somebody else sent it here meanwhile.
                    Err(Error::Exists { .. }) => Ok(()),
                    result => result,
                }
            }
        })
    }

    /// Forgets what servers said: it may be asked for by another way now.
    pub async fn forget_lists(&self) {
        let lists = self.lists.clone();
        // A list that stays is asked for again after an hour.
        let _ = tokio::task::spawn_blocking(move || lists.clear()).await;
    }
}

/// Does what nobody ends any more, not even who does not wait for it any more.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Db(crate::db::Error::Closed)),
        },
    }
}

/// The host's own architectures, and behind them perhaps all others.
fn wanted_architectures(host: &[&'static str], any: bool) -> Arc<[&'static str]> {
    let others = crate::image::ARCHITECTURES.into_iter().filter(|word| any && !host.contains(word));
    host.iter().copied().chain(others).collect()
}

/// Runs blocking work on the runtime's pool for it. A panic of it goes on here.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Cancelled: only when the runtime ends.
            Err(_) => Err(Error::Db(crate::db::Error::Closed)),
        },
    }
}
