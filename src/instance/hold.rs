//! A user's part in the change of a profile ([`super::profile_change`]).

use super::actor::Actor;
use super::request::Turns;
use super::{apply, quota};
use crate::db::Model;
use crate::profile;

impl Actor {
    /// Holds the queue while a profile that the instance uses changes to what `next` has: applied, kept or taken back.
    pub(super) async fn hold(&self, next: &Model, turns: Turns) {
        let Turns { begun, mut go, ready, kept } = turns;
        let now = self.context.db.model();
        let expanded = now
            .instances
            .get(&self.key)
            .map(|record| (profile::expand_instance(&now, record), profile::expand_instance(next, record)));
        // Of one that is down, too: it is its volume's.
        let quota = match &expanded {
            Some((before, after)) => quota::change(&self.context, &self.key, before, after).await,
            None => Ok(None),
        };
        let quota = match quota {
            Ok(quota) => quota,
            Err(error) => return drop(begun.send(Err(error))),
        };
        let applied = match (self.live(), expanded) {
            (Some(live), Some((before, after))) => {
                match apply::begin(&self.context, &self.key, live.pid, &before, &after).await {
                    Ok(applied) => Some((live.pid, before, after, applied)),
                    Err(error) => {
                        quota::undo(quota).await;
                        return drop(begun.send(Err(error)));
                    }
                }
            }
            (None, _) | (_, None) => None,
        };
        let _ = begun.send(Ok(()));
        let goes_on = go.wait_for(|go| *go).await.is_ok();
        if !goes_on {
            quota::undo(quota).await;
            if let Some((.., applied)) = applied {
                applied.undo().await;
            }
            return;
        }
        let applied = match applied {
            Some((pid, before, after, applied)) => {
                let applied = applied.go_on(&self.context, &self.key, pid, &before, &after).await;
                applied.map(|applied| Some((before, after, applied)))
            }
            None => Ok(None),
        };
        match applied {
            Ok(applied) => {
                // Who asked may have given up: then `kept` says so.
                let _ = ready.send(Ok(()));
                match (kept.await, applied) {
                    (Ok(()), Some((before, after, applied))) => {
                        applied.kept().await;
                        self.context.guests.tell(&self.key, &before, &after);
                    }
                    (Err(_), applied) => {
                        quota::undo(quota).await;
                        if let Some((.., applied)) = applied {
                            applied.undo().await;
                        }
                    }
                    (Ok(()), None) => {}
                }
            }
            Err(error) => {
                quota::undo(quota).await;
                drop(ready.send(Err(error)));
            }
        }
    }
}
