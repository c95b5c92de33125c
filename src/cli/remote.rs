//! `warren remote`: the servers that this user knows.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::{Args, Subcommand};
use http::Method;
use rustls::pki_types::CertificateDer;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::Client;
use super::connection::Connection;
use super::limits::Limits;
use super::object::yes_no;
use super::settings::{Remote, write};
use super::table::{Format, show};
use super::tls::{Address, Identity, Meeting, fingerprint};
use super::{Error, ask, settings};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Add a server
    Add(Add),
    /// Show the default remote
    GetDefault,
    /// List the remotes
    #[command(visible_alias = "ls")]
    List {
        /// Format
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Forget a remote
    #[command(visible_alias = "rm")]
    Remove {
        /// The remote
        remote: String,
    },
    /// Give a remote another name
    #[command(visible_alias = "mv")]
    Rename {
        /// The remote
        remote: String,
        /// Its new name
        name: String,
    },
    /// Set the URL of a remote
    SetUrl {
        /// The remote
        remote: String,
        /// Its URL
        url: String,
    },
    /// Make a remote the default one
    #[command(visible_alias = "set-default")]
    Switch {
        /// The remote
        remote: String,
    },
    /// Take over the remotes, the certificate and the aliases of lxc
    ImportLxc {
        /// Directory of lxc's configuration [default: ~/.config/lxc]
        directory: Option<std::path::PathBuf>,
    },
}

/// A server to add.
#[derive(Debug, Args)]
pub(super) struct Add {
    /// Name, then address, URL or token; one word alone is address or token, and the name is taken from it
    #[arg(required = true, num_args = 1..=2)]
    words: Vec<String>,
    /// Take its certificate without asking
    #[arg(long)]
    accept_certificate: bool,
    /// Trust password of the server, or a token
    #[arg(long)]
    password: Option<String>,
    /// Token that the server made for this client
    #[arg(long, conflicts_with = "password")]
    token: Option<String>,
    /// It only offers images
    #[arg(long)]
    public: bool,
    /// lxd or simplestreams
    #[arg(long, default_value = "lxd")]
    protocol: String,
    /// tls
    #[arg(long, default_value = "tls")]
    auth_type: String,
    /// Of Candid, which is not spoken
    #[arg(long, hide = true)]
    domain: Option<String>,
}

/// What is in a token.
#[derive(Debug, Deserialize)]
struct Token {
    #[serde(default)]
    client_name: String,
    fingerprint: String,
    addresses: Vec<String>,
    /// The server gets the token as it is.
    #[serde(skip)]
    text: String,
}

impl Token {
    fn read(text: &str) -> Option<Self> {
        let token: Self = serde_json::from_slice(&BASE64_STANDARD.decode(text.trim()).ok()?).ok()?;
        Some(Self { text: text.trim().to_owned(), ..token })
    }
}

/// Runs one of them.
pub(super) async fn run(client: &Client, command: Command) -> Result<(), Error> {
    match command {
        Command::Add(new) => add(client, new).await,
        Command::GetDefault => super::output::print(&format!("{}\n", client.settings().default_remote)),
        Command::List { format } => list(client, format),
        Command::Remove { remote } => {
            changeable(client, &remote)?;
            let mut settings = client.settings_mut();
            if settings.default_remote == remote {
                return Err(Error::Usage(
                    "Can't remove the default remote\n\"warren remote switch\" makes another the default".to_owned(),
                ));
            }
            settings.remotes.remove(&remote);
            // It may have none.
            let _ = std::fs::remove_file(settings.server_certificate(&remote));
            settings.save()
        }
        Command::Rename { remote, name } => rename(client, &remote, &name),
        Command::SetUrl { remote, url } => {
            let mut new = changeable(client, &remote)?;
            if !url.starts_with("unix:") {
                Address::parse(&url, 8443)?;
            }
            new.addr = url;
            let mut settings = client.settings_mut();
            settings.remotes.insert(remote, new);
            settings.save()
        }
        Command::Switch { remote } => {
            let mut settings = client.settings_mut();
            settings.remote(&remote)?;
            settings.default_remote = remote;
            settings.save()
        }
        Command::ImportLxc { directory } => {
            let came = client.settings_mut().take_over(&directory.unwrap_or_else(settings::of_lxc))?;
            let names = if came.is_empty() { "none that were not here".to_owned() } else { came.join(", ") };
            client.say(&format!("Remotes taken over: {names}"))
        }
    }
}

fn changeable(client: &Client, name: &str) -> Result<Remote, Error> {
    let settings = client.settings();
    let remote = settings.remote(name)?;
    if remote.fixed {
        return Err(Error::Usage(format!("Remote {name} is static and cannot be modified")));
    }
    Ok(remote.clone())
}

fn rename(client: &Client, remote: &str, name: &str) -> Result<(), Error> {
    changeable(client, remote)?;
    name_is_free(client, name)?;
    let mut settings = client.settings_mut();
    if let Some(entry) = settings.remotes.remove(remote) {
        settings.remotes.insert(name.to_owned(), entry);
    }
    let (old, new) = (settings.server_certificate(remote), settings.server_certificate(name));
    if old.exists() {
        std::fs::rename(&old, &new)
            .map_err(|error| Error::Local { doing: format!("rename {}", old.display()), error })?;
    }
    if settings.default_remote == remote {
        name.clone_into(&mut settings.default_remote);
    }
    settings.save()
}

fn name_is_free(client: &Client, name: &str) -> Result<(), Error> {
    if name.is_empty() || name.contains([':', '/', ' ']) || name.starts_with('.') || name.contains(char::is_control) {
        return Err(Error::Usage(format!("{name:?} cannot name a remote: it is no plain word")));
    }
    match client.settings().remotes.get(name) {
        Some(remote) => Err(Error::Usage(format!("Remote {name} exists as <{}>", remote.addr))),
        None => Ok(()),
    }
}

fn list(client: &Client, format: Format) -> Result<(), Error> {
    let settings = client.settings();
    let rows: Vec<Vec<String>> = settings
        .remotes
        .iter()
        .map(|(name, remote)| {
            let protocol = if remote.protocol.is_empty() { "lxd" } else { &remote.protocol };
            let auth = match remote {
                remote if remote.is_unix() => "file access",
                remote if remote.is_simplestreams() => "none",
                remote if remote.auth_type.is_empty() => "tls",
                remote => &remote.auth_type,
            };
            let shown = if *name == settings.default_remote { format!("{name} (current)") } else { name.clone() };
            [&shown, &remote.addr, protocol, auth]
                .map(str::to_owned)
                .into_iter()
                .chain([yes_no(remote.public), yes_no(remote.fixed), yes_no(false)])
                .collect()
        })
        .collect();
    match format {
        Format::Json => {
            let object = |remote: &Remote| {
                json!({
                    "Addr": remote.addr, "AuthType": remote.auth_type, "Domain": "", "Project": remote.project,
                    "Protocol": remote.protocol, "Public": remote.public, "Global": false, "Static": remote.fixed,
                })
            };
            let objects: Value = settings.remotes.iter().map(|(name, remote)| (name.clone(), object(remote))).collect();
            super::output::json(&format!("{objects}\n"))
        }
        // As it stands in the configuration.
        Format::Yaml => {
            let objects = serde_json::to_value(&settings.remotes).map_err(|e| Error::Broken(e.to_string()))?;
            super::output::print(&super::yaml::by_name(&objects))
        }
        _ => show(format, &["NAME", "URL", "PROTOCOL", "AUTH TYPE", "PUBLIC", "STATIC", "GLOBAL"], &rows, &[], &[]),
    }
}

async fn add(client: &Client, new: Add) -> Result<(), Error> {
    let (given, address) = match new.words.as_slice() {
        [address] => (None, address.as_str()),
        [name, address, ..] => (Some(name.as_str()), address.as_str()),
        [] => (None, ""),
    };
    if new.domain.is_some() {
        return Err(Error::Usage(
            "--domain is one of Candid, which is not spoken\nServers are reached by tls".to_owned(),
        ));
    }
    if new.auth_type != "tls" {
        return Err(Error::Usage(format!(
            "Authentication by {:?} is not supported\nServers are reached by tls",
            new.auth_type
        )));
    }
    let token = new.token.as_deref().or(new.password.as_deref()).unwrap_or(address);
    let token = Token::read(token);
    if new.token.is_some() && token.is_none() {
        return Err(Error::Usage(
            "What --token gives is no token\nThe server makes one: \"warren config trust add --name <you>\"".to_owned(),
        ));
    }
    let name = match (given, &token) {
        (Some(name), _) => name.to_owned(),
        (None, Some(token)) if new.token.is_none() && new.password.is_none() && !token.client_name.is_empty() => {
            token.client_name.clone()
        }
        (None, _) => address.trim_start_matches("https://").split(['/', ':']).next().unwrap_or_default().to_owned(),
    };
    name_is_free(client, &name)?;
    let project = client.globals.project.clone().unwrap_or_default();
    let mut remote = Remote { addr: address.to_owned(), project, ..Remote::default() };
    match new.protocol.as_str() {
        "simplestreams" => {
            Address::parse(address, 443)?;
            if !address.starts_with("https://") {
                return Err(Error::Usage("Only https URLs are supported for simplestreams".to_owned()));
            }
            remote.protocol = "simplestreams".to_owned();
            remote.public = true;
            return keep(client, &name, remote);
        }
        "lxd" | "incus" => remote.protocol = "lxd".to_owned(),
        other => return Err(Error::Usage(format!("There is no protocol {other:?}: lxd, simplestreams"))),
    }
    if remote.is_unix() {
        Connection::unix(&name, "", address).get("/1.0").await?;
        return keep(client, &name, remote);
    }
    remote.auth_type = "tls".to_owned();
    remote.public = new.public;
    let (found, certificate) = find(&name, address, token.as_ref()).await?;
    remote.addr = found.url();
    let mut pinned = Pinned { path: client.settings().server_certificate(&name), written: false };
    // What is vouched for is not kept: the authority vouches for the renewed certificate as well.
    if token.is_some() || !vouched(client, &found).await {
        let accepted = match &token {
            Some(token) => token.fingerprint == fingerprint(&certificate),
            None => new.accept_certificate || accept(&certificate).await?,
        };
        if !accepted {
            return Err(Error::Usage("Server certificate NACKed by user\nNothing was added".to_owned()));
        }
        pinned.written = true;
        write(&pinned.path, pem(&certificate).as_bytes(), 0o644)?;
    }
    let secret = token.map(|token| token.text).or(new.password);
    join(client, &name, &mut remote, secret).await?;
    with_project(client, &name, &remote).await?;
    keep(client, &name, remote)?;
    pinned.written = false;
    Ok(())
}

/// The certificate of a remote that is being added. One that is not added in the end leaves none, even if its user goes
/// away amid a question.
struct Pinned {
    path: std::path::PathBuf,
    written: bool,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.written {
            // It may not have been written yet.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn keep(client: &Client, name: &str, remote: Remote) -> Result<(), Error> {
    let mut settings = client.settings_mut();
    settings.remotes.insert(name.to_owned(), remote);
    settings.save()
}

/// The first address that answers, with the certificate that is shown there.
async fn find(name: &str, address: &str, token: Option<&Token>) -> Result<(Address, CertificateDer<'static>), Error> {
    let typed = [address.to_owned()];
    // A token beside an address: the address was meant.
    let addresses = match token {
        Some(token) if Token::read(address).is_some() => token.addresses.as_slice(),
        _ => &typed[..],
    };
    let mut trouble = Error::Usage("The token names no address of the server".to_owned());
    for address in addresses {
        let address = Address::parse(address, 8443)?;
        let meeting = Meeting::look(name, address.clone())?;
        let met = meeting.connect().await;
        match (met, meeting.seen()) {
            (Ok(_), Some(certificate)) => {
                let Some(token) = token.filter(|token| token.fingerprint != fingerprint(&certificate)) else {
                    return Ok((address, certificate));
                };
                trouble = Error::Usage(format!(
                    "The server at {} is not the one that made the token\nIts certificate has the fingerprint {}, the token names {}\nSomebody may be in between, or the token is of another server",
                    address.url(),
                    fingerprint(&certificate),
                    token.fingerprint
                ));
            }
            (Err(error), _) => trouble = error,
            (Ok(_), None) => {}
        }
    }
    Err(trouble)
}

/// Whether the system's authorities vouch for it: nobody needs to be asked then.
async fn vouched(client: &Client, address: &Address) -> bool {
    let meeting = Meeting::of(&client.settings(), "", address.clone(), None);
    match meeting {
        Ok(meeting) => meeting.connect().await.is_ok(),
        Err(_) => false,
    }
}

async fn accept(certificate: &CertificateDer<'_>) -> Result<bool, Error> {
    let shown = fingerprint(certificate);
    super::output::print(&format!("Certificate fingerprint: {shown}\n"))?;
    loop {
        let answer = ask::text("ok (y/n/[fingerprint])? ").await?.to_lowercase();
        match answer.as_str() {
            "y" | "yes" => return Ok(true),
            "" | "n" | "no" => return Ok(false),
            other if other.len() >= 12 && other.bytes().all(|b| b.is_ascii_hexdigit()) => {
                if shown == other {
                    return Ok(true);
                }
                return Err(Error::Usage(
                    "The server's certificate has another fingerprint than the one that was typed\nNothing was added"
                        .to_owned(),
                ));
            }
            _ => super::output::print("Please type 'y', 'n' or the fingerprint: ")?,
        }
    }
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    let text = BASE64_STANDARD.encode(certificate.as_ref());
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// Has the server trust this client, where it does not yet and shall.
async fn join(client: &Client, name: &str, remote: &mut Remote, secret: Option<String>) -> Result<(), Error> {
    let connection = {
        let settings = client.settings();
        let who = if remote.public { None } else { Some(Identity::needed(&settings)?) };
        let meeting = Meeting::of(&settings, name, Address::parse(&remote.addr, 8443)?, who)?;
        let mut connection = Connection::https("", meeting, name);
        connection.limits = Limits::STRANGER;
        connection
    };
    let server = connection.get("/1.0").await?;
    if remote.public || server["auth"] == "trusted" {
        return Ok(());
    }
    // An image server that speaks the API.
    if server["public"] == true {
        remote.public = true;
        return Ok(());
    }
    let methods = server["auth_methods"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !methods.is_empty() && !methods.iter().any(|method| method == "tls") {
        return Err(Error::refused("The server trusts no certificates (authentication by tls)"));
    }
    let secret = match secret {
        Some(secret) => secret,
        None => ask::secret(&format!("Admin password (or token) for {name}: ")).await?,
    };
    let failed = |e: Error| {
        e.doing(format!("{name} does not trust this client"))
            .hint("Is the password right? Or add the certificate there: \"warren config trust add client.crt\", or a token: \"warren config trust add --name <you>\"")
    };
    let body = trust_body(&server, &secret);
    connection.request(Method::POST, "/1.0/certificates", Some(&body)).await.map_err(failed)?;
    let server = connection.get("/1.0").await?;
    if server["auth"] != "trusted" {
        return Err(failed(Error::refused("It took the certificate, and yet does not know us")));
    }
    client.say(&format!("Client certificate now trusted by server: {name}"))
}

/// Sees to it that the remote's project is there.
async fn with_project(client: &Client, name: &str, remote: &Remote) -> Result<(), Error> {
    if remote.project.is_empty() || remote.public {
        return Ok(());
    }
    let meeting = {
        let settings = client.settings();
        let who = Identity::needed(&settings)?;
        Meeting::of(&settings, name, Address::parse(&remote.addr, 8443)?, Some(who))?
    };
    let found = Connection::https("", meeting, name).get(&super::object::path(&["projects", &remote.project])).await;
    found.map(drop).map_err(|e| e.doing(format!("Cannot use the project {} of {name}", remote.project)))
}

/// Incus, and LXD since 5.21, have tokens in a field of their own, which not all of them announce; LXD before has them
/// where a password stands. Each passes over the other's field.
fn trust_body(server: &Value, secret: &str) -> Value {
    let extensions = server["api_extensions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let explicit = extensions.iter().any(|extension| extension == "explicit_trust_token");
    let mut body = json!({"type": "client", "name": ""});
    if explicit || Token::read(secret).is_some() {
        body["trust_token"] = secret.into();
    }
    if !explicit {
        body["password"] = secret.into();
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_told_from_addresses() {
        let text = BASE64_STANDARD
            .encode(r#"{"client_name":"me","fingerprint":"ab","addresses":["10.0.0.1:8443"],"secret":"s","expires_at":"0001-01-01T00:00:00Z"}"#);
        let token = Token::read(&format!("{text}\n")).unwrap();
        assert_eq!((&token.client_name, &token.text), (&"me".to_owned(), &text));
        for other in ["10.0.0.1", "server", "bm9uc2Vuc2U=", ""] {
            assert!(Token::read(other).is_none(), "{other}");
        }
    }

    #[test]
    fn a_certificate_as_pem_is_read_again() {
        use rustls::pki_types::pem::PemObject;
        let der = CertificateDer::from((0..=200u8).collect::<Vec<_>>());
        assert_eq!(CertificateDer::from_pem_slice(pem(&der).as_bytes()).unwrap(), der);
    }
}
