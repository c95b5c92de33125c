//! A changed profile: on all its users at once, or on none.
//!
//! ```text
//!   the change ──> hold every user ──> all have their limits ──> all could apply the rest ──> written down ──> kept
//!                   (their queues wait)  └ one could not, or it cannot be written ──> all take it back
//! ```
//! The queues of all users wait meanwhile, so that none starts, or is changed, in between. One change at a time, as two
//! that hold each other's users would wait for ever.

use std::sync::Arc;

use tokio::sync::{oneshot, watch};

use super::addresses::{Leased, leased};
use super::error::Error;
use super::manager::Manager;
use super::request::{Request, Turns};
use super::update::{check_profile, users_of, with_profile};
use crate::db::{self, Model, Profile};
use crate::names::{InstanceKey, ProfileName, ProjectName};
use crate::profile;

/// Makes the new profile out of the present one. Asked again when something else was changed meanwhile.
pub type ProfileChange<E> = Box<dyn Fn(&Profile) -> Result<Profile, E> + Send + Sync>;

/// Users whose queues wait. Dropped, they take back what they have applied.
struct Held {
    verdicts: Vec<oneshot::Sender<()>>,
}

impl Held {
    fn keep(self) {
        for verdict in self.verdicts {
            // It may have been deleted with its instance.
            let _ = verdict.send(());
        }
    }
}

fn users(model: &Model, project: &ProjectName, name: &ProfileName) -> Vec<Arc<db::Instance>> {
    users_of(model, project, name).cloned().collect()
}

impl Manager {
    /// Changes a profile, at once in the running instances that use it. `None`: there is no such profile.
    ///
    /// # Errors
    /// Of the change, or [`Error::OfUsers`] with what each instance that refuses says; then nothing has changed.
    pub async fn change_profile<E>(
        &self,
        project: &ProjectName,
        name: &ProfileName,
        change: ProfileChange<E>,
    ) -> Result<Option<()>, E>
    where
        E: From<Error> + From<db::Error> + Send + 'static,
    {
        let _guard = self.profile_changes().lock().await;
        loop {
            let model = self.context().db.model();
            let Some(old) = model.profile(project, name).cloned() else { return Ok(None) };
            let new = change(&old)?;
            let next = with_profile(&model, &new);
            check_profile(&model, &next, project, name)?;
            let users = users(&model, project, name);
            let keys: Vec<InstanceKey> = users.iter().map(|user| user.key.clone()).collect();
            let of = |model: &Model| -> Leased {
                let one =
                    |user: &Arc<db::Instance>| leased(model, &profile::expand_instance(model, user), &user.config);
                users.iter().flat_map(one).collect()
            };
            let held = of(&model);
            let going = held.difference(&of(&next)).cloned().collect();
            let waiting = self.hold(users.iter().map(|user| &user.key), &Arc::new(next)).await?;
            let (project, name) = (project.clone(), name.clone());
            self.context().promise(&going, true).await;
            let written = self.context().db.write(move |tx| {
                let now = tx.model();
                let same = now.profile(&project, &name).is_some_and(|now| Arc::ptr_eq(now, &old))
                    && self::users(now, &project, &name).iter().map(|user| &user.key).eq(users.iter().map(|u| &u.key));
                if same {
                    let before = now.clone();
                    tx.put_profile(new)?;
                    check_profile(&before, tx.model(), &project, &name)?;
                }
                Ok::<_, E>(same)
            });
            let written = written.await;
            if !matches!(written, Ok(true)) {
                self.context().promise(&going, false).await;
            }
            if written? {
                waiting.keep();
                self.context().give_back_gone(held, &keys.iter().collect::<Vec<_>>()).await;
                return Ok(Some(()));
            }
        }
    }

    /// Has every user apply what `next` says, and wait.
    async fn hold(&self, users: impl Iterator<Item = &InstanceKey>, next: &Arc<Model>) -> Result<Held, Error> {
        let mut held = Held { verdicts: Vec::new() };
        let (mut first, mut last) = (Vec::new(), Vec::new());
        // Dropped before it says so, nobody goes on.
        let (all_began, go) = watch::channel(false);
        for key in users {
            let (begun, began) = oneshot::channel();
            let (ready, answer) = oneshot::channel();
            let (verdict, kept) = oneshot::channel();
            let turns = Turns { begun, go: go.clone(), ready, kept };
            if self.send(key, Request::Hold { next: Arc::clone(next), turns }) {
                held.verdicts.push(verdict);
                first.push((key, began));
                last.push((key, answer));
            }
        }
        all_agree(first).await?;
        let _ = all_began.send(true);
        all_agree(last).await?;
        Ok(held)
    }
}

/// Waits for all.
async fn all_agree(answers: Vec<(&InstanceKey, oneshot::Receiver<Result<(), Error>>)>) -> Result<(), Error> {
    let mut refusals = Vec::new();
    for (key, answer) in answers {
        // One that does not answer has been deleted.
        if let Ok(Err(error)) = answer.await {
            refusals.push((key.clone(), error));
        }
    }
    if refusals.is_empty() { Ok(()) } else { Err(Error::OfUsers { refusals, hidden: 0 }) }
}
