//! `warren config template`.

use bytes::Bytes;
use clap::Subcommand;
use http::{Method, Request};
use http_body_util::Full;

use super::client::Client;
use super::connection::{Answer, Connection};
use super::object::{checked, path};
use super::table::{Format, show};
use super::{Error, editor, output};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a template
    Create {
        /// The instance
        instance: String,
        /// The template
        template: String,
    },
    /// Delete a template
    #[command(visible_alias = "rm")]
    Delete {
        /// The instance
        instance: String,
        /// The template
        template: String,
    },
    /// Edit a template
    Edit {
        /// The instance
        instance: String,
        /// The template
        template: String,
    },
    /// List templates
    #[command(visible_alias = "ls")]
    List {
        /// The instance
        instance: String,
        /// Format
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Show a template
    Show {
        /// The instance
        instance: String,
        /// The template
        template: String,
    },
}

async fn write(at: &Connection, path: &str, bytes: Vec<u8>) -> Result<(), Error> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(http::header::CONTENT_TYPE, "application/octet-stream")
        .body(Full::new(Bytes::from(bytes)))
        .map_err(|e| Error::Usage(e.to_string()))?;
    at.send(request).await.map(drop)
}

/// Runs one of them.
pub(super) async fn run(client: &Client, command: Command) -> Result<(), Error> {
    let (Command::Create { instance, .. }
    | Command::Delete { instance, .. }
    | Command::Edit { instance, .. }
    | Command::List { instance, .. }
    | Command::Show { instance, .. }) = &command;
    let (at, name) = client.named(instance)?;
    checked("instance", &name)?;
    let base = path(&["instances", &name, "metadata", "templates"]);
    let one = |template: &str| {
        format!("{base}?path={}", percent_encoding::utf8_percent_encode(template, percent_encoding::NON_ALPHANUMERIC))
    };
    let failed = |e: Error| e.doing(format!("Cannot do that with the templates of {name}"));
    let read = async |template: &str| match at.ask(Method::GET, &one(template), None).await.map_err(failed)? {
        Answer::Other(bytes) => Ok(bytes),
        Answer::Json(_) => Err(Error::Broken("It is no template".to_owned())),
    };
    match &command {
        Command::List { format, .. } => {
            let names = at.get(&base).await.map_err(failed)?;
            let names = names.as_array().cloned().unwrap_or_default();
            let rows: Vec<Vec<String>> =
                names.iter().map(|name| vec![name.as_str().unwrap_or_default().to_owned()]).collect();
            show(*format, &["FILENAME"], &rows, &names, &[])
        }
        Command::Show { template, .. } => output::log(&read(template).await?),
        Command::Create { template, .. } => {
            let bytes = editor::piped().await?.unwrap_or_default().into_bytes();
            write(&at, &one(template), bytes).await.map_err(failed)
        }
        Command::Edit { template, .. } => {
            let before = read(template).await?;
            let after = match editor::piped().await? {
                Some(text) => text.into_bytes(),
                None => editor::edit(&before, ".tpl").await?,
            };
            write(&at, &one(template), after).await.map_err(failed)
        }
        Command::Delete { template, .. } => {
            at.run(Method::DELETE, &one(template), None).await.map(drop).map_err(failed)
        }
    }
}
