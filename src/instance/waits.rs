//! What the actor of an instance waits for, and who waits for it.

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::actor::State;
use super::request::Answer;

/// Resolves when the container's monitor has ended; never for a container that is down.
pub(super) async fn gone(state: &State) {
    match state {
        State::Stopped | State::Error => std::future::pending().await,
        State::Running(live) | State::Frozen(live) | State::Stopping(live) => {
            // A pidfd becomes readable when its process ends and stays so (pidfd_open(2)).
            if live.monitor.readable().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Resolves when init has ended; never for a container that is down.
pub(super) async fn init_gone(state: &State) {
    match state {
        State::Stopped | State::Error => std::future::pending().await,
        State::Running(live) | State::Frozen(live) | State::Stopping(live) => {
            if live.init.readable().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Resolves then; never without a time.
pub(super) async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Answers. Nobody waits when the client's operation is gone; the change stands nevertheless.
pub(super) fn answer_to(reply: oneshot::Sender<Answer>, answer: Answer) {
    let _ = reply.send(answer);
}
