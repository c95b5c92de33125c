//! `warren config trust`: whom the server trusts.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::{Args, Subcommand};
use http::Method;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::client::Client;
use super::connection::Connection;
use super::object::{self, CERTIFICATE, Object, path, text};
use super::table::{Format, show, sort};
use super::{Error, ask, output};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Trust a certificate, or make a token for a client
    Add(Add),
    /// Edit a certificate's entry as YAML
    Edit {
        /// [remote:]fingerprint
        fingerprint: String,
    },
    /// List who is trusted
    #[command(visible_alias = "ls")]
    List {
        /// [remote:]
        remote: Option<String>,
        /// Format
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// List the tokens that nobody has used yet
    ListTokens {
        /// [remote:]
        remote: Option<String>,
        /// Format
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Trust a certificate no more
    #[command(visible_alias = "rm")]
    Remove {
        /// [remote:]fingerprint
        fingerprint: String,
    },
    /// Make a token worthless
    RevokeToken {
        /// [remote:], then the name of the client
        #[arg(required = true, num_args = 1..=2)]
        words: Vec<String>,
    },
    /// Show a certificate's entry
    Show {
        /// [remote:]fingerprint
        fingerprint: String,
    },
}

/// Whom to trust.
#[derive(Debug, Args)]
pub(super) struct Add {
    /// [remote:], then a file with a certificate; without one a token is made
    #[arg(num_args = 0..=2)]
    words: Vec<String>,
    /// Name of the client
    #[arg(long)]
    name: Option<String>,
    /// Only for --projects
    #[arg(long)]
    restricted: bool,
    /// Projects, by commas
    #[arg(long, value_delimiter = ',')]
    projects: Vec<String>,
    /// client or metrics
    #[arg(long = "type", default_value = "client")]
    kind: String,
}

/// Runs one of them.
pub(super) async fn run(client: &Client, command: Command) -> Result<(), Error> {
    match command {
        Command::Add(new) => add(client, new).await,
        Command::List { remote, format } => list(&*client.remote(remote.as_deref())?, format).await,
        Command::ListTokens { remote, format } => {
            let at = client.remote(remote.as_deref())?;
            let tokens = tokens(&at).await?;
            let mut rows = Vec::new();
            for (_, token) in &tokens {
                let expires = output::time_as_text(&text(token, "expires_at"));
                rows.push(vec![text(token, "client_name"), encoded(token), expires]);
            }
            sort(&mut rows);
            let objects: Vec<Value> = tokens.into_iter().map(|(_, token)| token).collect();
            show(format, &["NAME", "TOKEN", "EXPIRES AT"], &rows, &objects, &[])
        }
        Command::RevokeToken { words } => {
            let (at, rest) = client.leading(&words)?;
            let (at, name) = match rest {
                [name] if name.contains(':') => client.named(name)?,
                [name] => (at, name.clone()),
                _ => {
                    return Err(Error::Usage("Whose token? \"warren config trust list-tokens\" shows them".to_owned()));
                }
            };
            let found = tokens(&at).await?.into_iter().find(|(_, token)| token["client_name"] == name);
            let Some((operation, _)) = found else {
                return Err(Error::Usage(format!(
                    "No certificate add token for member {name} on remote: {}\n\"warren config trust list-tokens\" shows those that there are",
                    at.remote
                )));
            };
            at.request(Method::DELETE, &path(&["operations", &operation]), None).await?;
            client.say(&format!("Certificate add token for {name} deleted"))
        }
        Command::Edit { fingerprint } => with(client, &fingerprint, async |object| object.edit().await).await,
        Command::Remove { fingerprint } => with(client, &fingerprint, async |object| object.delete().await).await,
        Command::Show { fingerprint } => with(client, &fingerprint, async |object| object.show().await).await,
    }
}

async fn with(
    client: &Client,
    word: &str,
    action: impl AsyncFnOnce(&Object<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let (at, fingerprint) = client.named(word)?;
    object::checked("certificate", &fingerprint)?;
    let what = format!("certificate {fingerprint}");
    action(&Object { at: &at, path: path(&["certificates", &fingerprint]), what, kind: &CERTIFICATE }).await
}

/// The parts of a token as clients take it.
fn encoded(token: &Value) -> String {
    // The order that LXD has.
    let mut parts = Vec::new();
    for key in ["client_name", "fingerprint", "addresses", "secret", "expires_at"] {
        if token[key] != Value::Null {
            parts.push(format!("{}:{}", Value::from(key), token[key]));
        }
    }
    BASE64_STANDARD.encode(format!("{{{}}}", parts.join(",")))
}

/// What an operation of a token tells about it.
fn token(operation: &Value) -> Value {
    let metadata = &operation["metadata"];
    let mut token = json!({
        "client_name": metadata["request"]["name"], "fingerprint": metadata["fingerprint"],
        "addresses": metadata["addresses"], "secret": metadata["secret"],
    });
    if metadata["expiresAt"] != Value::Null {
        token["expires_at"] = metadata["expiresAt"].clone();
    } else if metadata["expires_at"] != Value::Null {
        token["expires_at"] = metadata["expires_at"].clone();
    }
    token
}

/// The tokens that wait, each with the operation that keeps it.
async fn tokens(at: &Connection) -> Result<Vec<(String, Value)>, Error> {
    let operations = at.get("/1.0/operations?recursion=1").await?;
    let running =
        operations.as_object().into_iter().flatten().flat_map(|(_, list)| list.as_array().into_iter().flatten());
    let tokens = running.filter(|operation| {
        operation["class"] == "token" && operation["status_code"] == 103 && operation["metadata"]["request"].is_object()
    });
    Ok(tokens.map(|operation| (text(operation, "id"), token(operation))).collect())
}

async fn add(client: &Client, new: Add) -> Result<(), Error> {
    let (at, rest) = client.leading(&new.words)?;
    let mut body = json!({
        "type": new.kind, "restricted": new.restricted || !new.projects.is_empty(), "projects": new.projects,
    });
    let failed = |e: Error| e.doing("Cannot add to the trusted clients".to_owned());
    if let [file] = rest {
        let wrong = |e: rustls::pki_types::pem::Error| Error::Usage(format!("{file} has no certificate: {e}"));
        let certificate = CertificateDer::from_pem_file(file).map_err(wrong)?;
        body["certificate"] = json!(BASE64_STANDARD.encode(&certificate));
        let stem = std::path::Path::new(file).file_name().map(|name| name.to_string_lossy().into_owned());
        body["name"] = json!(new.name.or(stem).unwrap_or_default());
        return at.run(Method::POST, "/1.0/certificates", Some(&body)).await.map(drop).map_err(failed);
    }
    if !rest.is_empty() {
        return Err(Error::Usage("One certificate at a time".to_owned()));
    }
    let name = match new.name {
        Some(name) => name,
        None => ask::text("Please provide client name: ").await?,
    };
    body["name"] = json!(name);
    body["token"] = json!(true);
    let answer = at.request(Method::POST, "/1.0/certificates", Some(&body)).await.map_err(failed)?;
    if answer.operation.is_empty() {
        return Err(failed(Error::refused("The server makes no tokens")));
    }
    client.say(&format!("Client {name} certificate add token:"))?;
    output::print(&format!("{}\n", encoded(&token(&answer.metadata))))
}

async fn list(at: &Connection, format: Format) -> Result<(), Error> {
    let headers = ["TYPE", "NAME", "COMMON NAME", "FINGERPRINT", "ISSUE DATE", "EXPIRY DATE"];
    object::list(at, "/1.0/certificates?recursion=1", format, &headers, CERTIFICATE.order, |entry| {
        let fingerprint: String = text(entry, "fingerprint").chars().take(12).collect();
        let (name, from, to) = CertificateDer::from_pem_slice(text(entry, "certificate").as_bytes())
            .ok()
            .and_then(|der| {
                let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
                let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
                let validity = certificate.validity();
                Some((name.unwrap_or_default().to_owned(), day(validity.not_before), day(validity.not_after)))
            })
            .unwrap_or_default();
        vec![text(entry, "type"), text(entry, "name"), name, fingerprint, from, to]
    })
    .await
}

/// As the list of certificates has it.
fn day(time: x509_parser::time::ASN1Time) -> String {
    let time = time.to_datetime();
    time.format(&time::format_description::well_known::Rfc3339)
        .map(|text| output::day_as_text(&text))
        .unwrap_or_default()
}
