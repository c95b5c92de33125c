//! The user's editor, and what comes by a pipe instead.

use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use tokio::io::AsyncReadExt;

use super::{Error, ask, output, yaml};
use serde_json::Value;

/// A file that is gone when this is dropped.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// All of stdin, where it is no terminal.
pub(super) async fn piped() -> Result<Option<String>, Error> {
    if std::io::stdin().is_terminal() {
        return Ok(None);
    }
    let mut text = String::new();
    let read = tokio::io::stdin().read_to_string(&mut text).await;
    read.map_err(|error| Error::Local { doing: "read stdin".to_owned(), error })?;
    Ok(Some(text))
}

/// Lets the user edit bytes in a file with this ending.
pub(super) async fn edit(bytes: &[u8], ending: &str) -> Result<Vec<u8>, Error> {
    let failed = |doing: &str| {
        let doing = doing.to_owned();
        move |error| Error::Local { doing, error }
    };
    let path = std::env::temp_dir().join(format!("warren-{}{ending}", uuid::Uuid::new_v4()));
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let temporary = Temporary(path);
    file.and_then(|mut file| file.write_all(bytes)).map_err(failed("write a file for the editor"))?;
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let editor = variable("VISUAL").or_else(|| variable("EDITOR")).unwrap_or_else(|| "vi".to_owned());
    // An editor may be a program with flags.
    let status = tokio::process::Command::new("sh")
        .args(["-c", &format!("{editor} \"$1\""), "sh"])
        .arg(&temporary.0)
        .status()
        .await
        .map_err(failed("start the editor"))?;
    if !status.success() {
        return Err(Error::Usage(format!(
            "The editor {editor:?} failed: {status}\nNothing was changed\nEDITOR names another"
        )));
    }
    tokio::fs::read(&temporary.0).await.map_err(failed("read what was edited"))
}

/// Lets the user change YAML until it is accepted; from a pipe it comes once.
pub(super) async fn change(shown: &str, mut accept: impl AsyncFnMut(Value) -> Result<(), Error>) -> Result<(), Error> {
    if let Some(text) = piped().await? {
        return accept(yaml::parse(&text)?).await;
    }
    let mut text = shown.as_bytes().to_vec();
    loop {
        text = edit(&text, ".yaml").await?;
        let parsed = std::str::from_utf8(&text).map_err(|e| Error::Usage(e.to_string())).and_then(yaml::parse);
        let done = match parsed {
            Ok(value) => accept(value).await,
            Err(error) => Err(error),
        };
        let Err(error) = done else { return Ok(()) };
        output::complain(&error);
        if !ask::yes("Edit again? (y/n) ").await? {
            return Err(Error::Usage("Nothing was changed".to_owned()));
        }
    }
}
