//! `warren image list`.

use clap::Args;
use serde_json::Value;

use super::Error;
use super::client::Client;
use super::connection::Connection;
use super::object::{IMAGE, text};
use super::output::day_as_text;
use super::simplestreams;
use super::table::{Format, show, sort};

/// Which images, and what of them.
#[derive(Debug, Args)]
pub(super) struct List {
    /// [remote:], then filters: the beginning of an alias or fingerprint, key=value of a property
    filter: Vec<String>,
    /// Columns: l shortest alias, L aliases, f and F fingerprint, p public, d description, a architecture, t type, s size, u upload date
    #[arg(short, long, default_value = "lfpdatsu")]
    columns: String,
    /// Format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// The images of a remote of either kind.
pub(super) async fn images(client: &Client, remote: &str) -> Result<Vec<Value>, Error> {
    let entry = client.settings().remote(remote)?.clone();
    if entry.is_simplestreams() {
        return simplestreams::images(client, remote, &entry).await;
    }
    let at: std::rc::Rc<Connection> = client.connection(remote)?;
    match at.get("/1.0/images?recursion=1").await? {
        Value::Array(images) => Ok(images),
        _ => Err(Error::Broken("It is no list of images".to_owned())),
    }
}

fn aliases(image: &Value) -> Vec<String> {
    image["aliases"].as_array().into_iter().flatten().map(|alias| text(alias, "name")).collect()
}

fn cell(column: char, image: &Value) -> Option<(&'static str, String)> {
    let fingerprint = text(image, "fingerprint");
    Some(match column {
        'l' => ("ALIAS", {
            let mut aliases = aliases(image);
            aliases.sort_by_key(String::len);
            match aliases.as_slice() {
                [] => String::new(),
                [only] => only.clone(),
                [first, rest @ ..] => format!("{first} ({} more)", rest.len()),
            }
        }),
        'L' => ("ALIASES", aliases(image).join("\n")),
        'f' => ("FINGERPRINT", fingerprint.chars().take(12).collect()),
        'F' => ("FINGERPRINT", fingerprint),
        'p' => ("PUBLIC", if image["public"] == true { "yes" } else { "no" }.to_owned()),
        'd' => ("DESCRIPTION", text(&image["properties"], "description")),
        'a' => ("ARCHITECTURE", text(image, "architecture")),
        't' => ("TYPE", text(image, "type").to_uppercase()),
        's' => ("SIZE", size(image)),
        'u' => ("UPLOAD DATE", day_as_text(&text(image, "uploaded_at"))),
        _ => return None,
    })
}

/// In MiB, which `lxc` calls MB.
pub(super) fn size(image: &Value) -> String {
    let bytes = image["size"].as_f64().unwrap_or_default();
    format!("{:.2}MB", bytes / 1024.0 / 1024.0)
}

fn passes(word: &str, image: &Value) -> bool {
    match word.split_once('=') {
        Some((key, wanted)) => {
            let property = text(&image["properties"], key);
            property == wanted || text(image, key) == wanted
        }
        None => {
            text(image, "fingerprint").starts_with(word)
                || aliases(image).iter().any(|alias| alias.starts_with(word))
                || text(&image["properties"], "description").to_lowercase().contains(&word.to_lowercase())
        }
    }
}

/// Lists images.
pub(super) async fn list(client: &Client, list: &List) -> Result<(), Error> {
    let (remote, filters) = client.filtered(&list.filter);
    let mut objects = images(client, &remote).await?;
    objects.retain(|image| filters.iter().all(|word: &String| passes(word, image)));
    let columns: Vec<char> = list.columns.chars().filter(|c| *c != ',').collect();
    let mut headers = Vec::new();
    for column in &columns {
        let known = cell(*column, &Value::Null);
        let unknown = || Error::Usage(format!("Unknown column shorthand char '{column}' in '{}'", list.columns));
        headers.push(known.ok_or_else(unknown)?.0);
    }
    let row = |image: &Value| columns.iter().filter_map(|column| Some(cell(*column, image)?.1)).collect();
    let mut rows: Vec<Vec<String>> = objects.iter().map(row).collect();
    sort(&mut rows);
    show(list.format, &headers, &rows, &objects, IMAGE.order)
}
