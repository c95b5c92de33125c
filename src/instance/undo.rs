//! Undo: each step of a multi-step verb pushes its reverse; a failure runs them, last first, and keeps every error.

use std::future::Future;
use std::pin::Pin;

use super::error::Error;

type Step = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// The stack of reverses.
#[derive(Default)]
pub(super) struct Undo {
    steps: Vec<Step>,
}

impl Undo {
    /// Pushes the reverse of the step that was just done.
    pub(super) fn push(&mut self, step: impl Future<Output = Result<(), Error>> + Send + 'static) {
        self.steps.push(Box::pin(step));
    }

    /// All went well: nothing is undone.
    pub(super) fn disarm(self) {
        drop(self.steps);
    }

    /// Undoes everything because of `cause`, and returns it together with what could not be undone.
    pub(super) async fn run(mut self, cause: Error) -> Error {
        let mut failures = Vec::new();
        while let Some(step) = self.steps.pop() {
            if let Err(error) = step.await {
                failures.push(error);
            }
        }
        if failures.is_empty() { cause } else { Error::Undo { cause: Box::new(cause), failures } }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test]
    async fn the_last_step_is_undone_first_and_failures_are_kept() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut undo = Undo::default();
        for step in 1..=3 {
            let order = Arc::clone(&order);
            undo.push(async move {
                order.lock().unwrap().push(step);
                if step == 2 { Err(Error::NotRunning) } else { Ok(()) }
            });
        }
        let error = undo.run(Error::AlreadyRunning).await;
        assert_eq!(*order.lock().unwrap(), [3, 2, 1]);
        assert!(matches!(&error, Error::Undo { failures, .. } if failures.len() == 1));
        assert!(error.to_string().starts_with("The instance is already running; and cleaning up"));
    }
}
