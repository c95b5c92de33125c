//! Images that follow their server, and those that nobody uses any more.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::error::Error;
use super::keep::{self, tell};
use super::source::Source;
use super::{Keep, Progress, Remotes, to_the_end};
use crate::config;
use crate::db::{self, Image, Model, Phase, Seconds};
use crate::events::lifecycle::Requestor;
use crate::names::{Fingerprint, ProjectName};
use crate::ops::Spec;

/// How often it is looked whether something is to be done.
const LOOK: Duration = Duration::from_secs(60);
const HOUR: Seconds = 3600;
const DAY: Seconds = 24 * HOUR;

/// A number that a project may set, and else the server.
fn number(model: &Model, project: &ProjectName, key: &str) -> i64 {
    let own = model.projects.get(project).and_then(|record| config::parse_int(record.config.get(key)?));
    own.unwrap_or_else(|| config::int_of(&model.config, key))
}

fn days_of(model: &Model, project: &ProjectName) -> i64 {
    number(model, project, "images.remote_cache_expiry")
}

/// The cached images whose time is over.
fn expired(model: &Model, now: Seconds) -> Vec<Arc<Image>> {
    let over = |image: &&Arc<Image>| is_over(image, now, days_of(model, &image.project));
    model.images.values().filter(over).cloned().collect()
}

/// Whether it was unused for `days` (0 or less: that does not count), or is out of support.
fn is_over(image: &Image, now: Seconds, days: i64) -> bool {
    let unused_since = if image.last_used_at > 0 { image.last_used_at } else { image.uploaded_at };
    let is_unused = days > 0 && unused_since.saturating_add(days.saturating_mul(DAY)) <= now;
    let is_old = image.expires_at > 0 && image.expires_at <= now && unused_since.saturating_add(DAY) <= now;
    image.cached && image.phase == Phase::Ready && (is_unused || is_old)
}

/// Whether images are to be brought up to date; `last`: when they were, since the daemon's start. `interval`: hours, 0 or
/// less for never.
fn is_due(last: Option<Seconds>, now: Seconds, interval: i64) -> bool {
    interval > 0 && last.is_none_or(|last| now.saturating_sub(last) >= interval.saturating_mul(HOUR))
}

impl Remotes {
    /// Follows the clock for as long as the daemon lives.
    pub async fn follow(self: Arc<Self>) {
        loop {
            self.round(db::now()).await;
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Does what is due at `now`: for tests the clock is theirs. What fails is tried again in the next round that is due.
    pub async fn round(self: &Arc<Self>, now: Seconds) {
        let _one = self.round.lock().await;
        let model = self.context.db.model();
        for image in expired(&model, now) {
            let days = days_of(&model, &image.project);
            let judge = move |image: &Image| is_over(image, now, days);
            match self.remove_unheld(&image.project, &image.fingerprint, judge, None).await {
                Ok(_) => {}
                Err(error) => tracing::warn!(image = %image.fingerprint, %error, "removing an image that nobody uses"),
            }
        }
        let model = self.context.db.model();
        let due: BTreeSet<ProjectName> = {
            let mut last = self.updated_at.lock().unwrap_or_else(PoisonError::into_inner);
            last.retain(|project, _| model.projects.contains_key(project));
            let is_due = |project: &&ProjectName| {
                is_due(last.get(*project).copied(), now, number(&model, project, "images.auto_update_interval"))
            };
            let due: BTreeSet<_> = model.projects.keys().filter(is_due).cloned().collect();
            last.extend(due.iter().map(|project| (project.clone(), now)));
            due
        };
        let follows = |image: &&Arc<Image>| {
            image.auto_update
                && image.phase == Phase::Ready
                && image.update_source.is_some()
                && due.contains(&image.project)
        };
        for image in model.images.values().filter(follows) {
            self.follow_one(image).await;
        }
    }

    /// Brings an image up to date by itself; seen as an operation, by which it can be cancelled.
    async fn follow_one(self: &Arc<Self>, image: &Arc<Image>) {
        let spec = Spec {
            description: "Refreshing image",
            project: image.project.clone(),
            resources: [("images".to_owned(), vec![format!("/1.0/images/{}", image.fingerprint)])].into(),
            metadata: None,
            requestor: None,
            may_cancel: true,
        };
        let (own, image) = (Arc::clone(self), Arc::clone(image));
        let operation = self.ops.task(spec, async move |handle| {
            let told = |progress: &Progress| handle.extend_metadata(progress.to_metadata());
            let result = own.refresh(&image, None, &told).await;
            match &result {
                Ok(is_newer) => handle.add_metadata("refreshed", (*is_newer).into()),
                Err(error) => tracing::warn!(image = %image.fingerprint, %error, "bringing an image up to date"),
            }
            result.map(drop)
        });
        operation.wait(None).await;
    }

    /// Brings an image up to date: the newer one takes its names, its profiles and who may read it; what was said of it
    /// here stays. Whether there was a newer one. Who does not wait any more ends the download; once all of it is here,
    /// the newer one takes the place of the old one nevertheless, and never half of it.
    ///
    /// # Errors
    /// Then the old one is as it was.
    pub async fn refresh(
        self: &Arc<Self>,
        old: &Arc<Image>,
        requestor: Option<Requestor>,
        told: &(dyn Fn(&Progress) + Send + Sync),
    ) -> Result<bool, Error> {
        let no_origin = || Error::NoOrigin { fingerprint: old.fingerprint.clone() };
        let origin = old.update_source.clone().ok_or_else(no_origin)?;
        let source = Source::of(&origin).map_err(|_| no_origin())?;
        let keep = Keep {
            public: old.public,
            auto_update: old.auto_update,
            cached: old.cached,
            profiles: Some(old.profiles.clone()),
            origin: Some(origin),
            replaces: Some(Arc::clone(old)),
            requestor: requestor.clone(),
            ..Keep::default()
        };
        // With it come the names; a deleted image has no newer one.
        let (new, _hold) = self.load(&old.project, &source, &keep, true, told).await?;
        if new.fingerprint == old.fingerprint {
            return Ok(false);
        }
        let (own, old) = (Arc::clone(self), Arc::clone(old));
        to_the_end(async move { own.remove_replaced(&old, requestor.as_ref()).await }).await?;
        Ok(true)
    }

    /// Removes an image whose names a newer one has taken. One that is just being unpacked goes in a later round: it still
    /// follows its server.
    pub(super) async fn remove_replaced(&self, old: &Image, requestor: Option<&Requestor>) -> Result<(), Error> {
        self.remove_unheld(&old.project, &old.fingerprint, |_| true, requestor).await.map(drop)
    }

    /// Removes an image, unless somebody is just about to use it, or `judge` has another mind by now. Whether it went.
    async fn remove_unheld(
        &self,
        project: &ProjectName,
        fingerprint: &Fingerprint,
        judge: impl Fn(&Image) -> bool + Send + 'static,
        requestor: Option<&Requestor>,
    ) -> Result<bool, Error> {
        let (context, wanted) = (Arc::clone(&self.context), (project.clone(), fingerprint.clone()));
        // Looked at where rows are written: who wants to use it says so before it looks whether it is there.
        let marked = self.context.db.write(move |tx| {
            let Some(image) = tx.model().images.get(&wanted).filter(|image| image.phase == Phase::Ready).cloned()
            else {
                return Ok(None);
            };
            if context.images.is_held(&wanted.1) || !judge(&image) {
                return Ok(None);
            }
            tx.put_image(Image { phase: Phase::Deleting, ..(*image).clone() })?;
            Ok::<_, Error>(Some(image))
        });
        let Some(image) = marked.await? else { return Ok(false) };
        keep::remove(&self.context, &image).await?;
        tell(&self.context, "image-deleted", project, fingerprint, requestor);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::wire::Config;

    fn image(cached: bool, uploaded_at: Seconds, last_used_at: Seconds, expires_at: Seconds) -> Image {
        Image {
            project: ProjectName::default(),
            fingerprint: Fingerprint::new("a".repeat(64)).unwrap(),
            phase: Phase::Ready,
            filename: String::new(),
            size: 1,
            public: false,
            auto_update: true,
            cached,
            architecture: "x86_64".to_owned(),
            properties: Config::new(),
            profiles: Vec::new(),
            created_at: 1,
            expires_at,
            is_expiry_set: false,
            last_used_at,
            uploaded_at,
            update_source: None,
        }
    }

    #[test]
    fn what_is_cached_goes_when_nobody_uses_it() {
        let over = |image: &Image, days: i64, at: Seconds| is_over(image, at, days);
        let used = image(true, DAY, 5 * DAY, 0);
        assert!(!over(&used, 10, 15 * DAY - 1) && over(&used, 10, 15 * DAY));
        assert!(!over(&used, 0, 1000 * DAY) && !over(&used, i64::MIN, 1000 * DAY), "0 or less is never");
        assert!(!over(&used, i64::MAX, 1000 * DAY));
        assert!(over(&image(true, DAY, 0, 0), 10, 11 * DAY), "one that was never used counts from its arrival");
        assert!(!over(&image(false, DAY, 0, 2), 10, 1000 * DAY), "only what was cached goes by itself");
        assert!(over(&image(true, DAY, 0, 3 * DAY), 10, 3 * DAY), "out of support");
        assert!(!over(&image(true, 5 * DAY, 0, 3 * DAY), 10, 5 * DAY), "but not what just came");
    }

    #[test]
    fn updates_come_once_in_an_interval() {
        assert!(is_due(None, 5, 6) && !is_due(None, 5, 0) && !is_due(None, 5, -1));
        assert!(!is_due(Some(HOUR), 7 * HOUR, i64::MAX));
        assert!(!is_due(Some(HOUR), 7 * HOUR - 1, 6) && is_due(Some(HOUR), 7 * HOUR, 6));
    }
}
