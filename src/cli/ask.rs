//! Questions to the user.

use std::io::Write;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::io::AsyncReadExt;

use super::{Error, output};

/// No answer is longer.
const LONGEST: usize = 64 * 1024;

/// Keeps what is typed from being seen; put back when dropped, whatever happens.
struct Hidden(Termios);

impl Hidden {
    fn enter() -> Option<Self> {
        let before = tcgetattr(std::io::stdin()).ok()?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(std::io::stdin(), OptionalActions::Now, &hidden).ok()?;
        Some(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // Nothing is left to be done when this fails.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Asks, and reads a line; nothing when there is nobody to answer.
async fn line(question: &str) -> Result<Option<String>, Error> {
    let shown = write!(std::io::stdout(), "{}", output::harmless(question)).and_then(|()| std::io::stdout().flush());
    output::written(shown)?;
    let (mut stdin, mut text) = (tokio::io::stdin(), Vec::new());
    // A byte at a time: what comes after the line is for the next question.
    let mut byte = [0];
    while text.len() < LONGEST && matches!(stdin.read(&mut byte).await, Ok(1)) {
        if byte[0] == b'\n' {
            return Ok(Some(String::from_utf8_lossy(&text).trim().to_owned()));
        }
        text.push(byte[0]);
    }
    Ok((!text.is_empty()).then(|| String::from_utf8_lossy(&text).trim().to_owned()))
}

/// Asks until something is answered.
pub(super) async fn text(question: &str) -> Result<String, Error> {
    line(question).await?.ok_or_else(|| Error::Usage("Nobody answered".to_owned()))
}

/// The same for what nobody may see.
pub(super) async fn secret(question: &str) -> Result<String, Error> {
    let hidden = Hidden::enter();
    let answer = text(question).await;
    if hidden.is_some() {
        output::print("\n")?;
    }
    answer
}

/// Yes or no; nothing is no.
pub(super) async fn yes(question: &str) -> Result<bool, Error> {
    Ok(line(question).await?.is_some_and(|answer| matches!(answer.to_lowercase().as_str(), "y" | "yes")))
}
