//! What the command line said for all verbs, and the servers that its names lead to.

use std::cell::{Ref, RefCell, RefMut};
use std::collections::BTreeMap;
use std::rc::Rc;

use clap::Args;

use super::Error;
use super::connection::Connection;
use super::settings::Settings;
use super::tls::{Address, Identity, Meeting};

/// Flags that every verb has.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Globals {
    /// Show requests and answers
    #[arg(long, global = true)]
    pub debug: bool,
    /// Say more
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Say nothing of progress
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Use the socket of this host, whatever the default remote is
    #[arg(long, global = true)]
    pub force_local: bool,
    /// Help is always whole; the stock client takes this everywhere
    #[arg(long, global = true, hide = true)]
    pub sub_commands: bool,
    /// Project to work in
    #[arg(long, global = true, value_name = "PROJECT")]
    pub project: Option<String>,
    /// Member of a cluster: there are none here
    #[arg(long = "target", global = true, hide = true, value_name = "MEMBER")]
    pub member: Option<String>,
}

/// The way to servers.
pub(super) struct Client {
    /// What the command line said for all verbs.
    pub globals: Globals,
    settings: RefCell<Settings>,
    connections: RefCell<BTreeMap<String, Rc<Connection>>>,
}

impl Client {
    /// With these flags and this configuration.
    pub(super) fn new(globals: Globals, settings: Settings) -> Self {
        Self { globals, settings: RefCell::new(settings), connections: RefCell::default() }
    }

    /// Refuses the name of a member of a cluster; `none` and nothing name none.
    pub(super) fn without_members(member: Option<&str>) -> Result<(), Error> {
        match member {
            None | Some("" | "none") => Ok(()),
            Some(member) => {
                Err(Error::absent("clusters", &format!("Each host stands for itself, so {member:?} names nothing")))
            }
        }
    }

    /// The configuration.
    pub(super) fn settings(&self) -> Ref<'_, Settings> {
        self.settings.borrow()
    }

    /// The configuration, to change it.
    pub(super) fn settings_mut(&self) -> RefMut<'_, Settings> {
        self.settings.borrow_mut()
    }

    /// The project that requests to a remote are about: the flag, the environment, or what the remote is set to.
    pub(super) fn project(&self, configured: &str) -> String {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let named =
            self.globals.project.clone().or_else(|| variable("WARREN_PROJECT")).or_else(|| variable("LXD_PROJECT"));
        let project = named.unwrap_or_else(|| configured.to_owned());
        // What needs no word gets none: servers of before there were projects understand it.
        if project == "default" { String::new() } else { project }
    }

    /// The connection to a remote that speaks the API.
    pub(super) fn connection(&self, remote: &str) -> Result<Rc<Connection>, Error> {
        if let Some(known) = self.connections.borrow().get(remote) {
            return Ok(known.clone());
        }
        let settings = self.settings();
        let entry = settings.remote(remote)?;
        if entry.is_simplestreams() {
            return Err(Error::Usage(format!(
                "{remote}: is an image server, it has no instances\nOnly images can be taken from there: \"warren image list {remote}:\""
            )));
        }
        let project = self.project(&entry.project);
        let mut connection = if entry.is_unix() || (self.globals.force_local && remote == settings.default_remote) {
            Connection::unix(remote, &project, if entry.is_unix() { &entry.addr } else { "unix://" })
        } else {
            let who = if entry.public { None } else { Some(Identity::needed(&settings)?) };
            let meeting = Meeting::of(&settings, remote, Address::parse(&entry.addr, 8443)?, who)?;
            Connection::https(&project, meeting, remote)
        };
        connection.watched &= !self.globals.quiet;
        connection.debug = self.globals.debug;
        let connection = Rc::new(connection);
        self.connections.borrow_mut().insert(remote.to_owned(), connection.clone());
        Ok(connection)
    }

    /// The connection and the name of `[<remote>:]<name>`.
    pub(super) fn at(&self, text: &str) -> Result<(Rc<Connection>, String), Error> {
        let (remote, name) = {
            let settings = self.settings();
            let (remote, name) = settings.split(text);
            let remote = if self.globals.force_local && !text.contains(':') { "local" } else { remote };
            (remote.to_owned(), name.to_owned())
        };
        Ok((self.connection(&remote)?, name))
    }

    /// The same where a name must be.
    pub(super) fn named(&self, text: &str) -> Result<(Rc<Connection>, String), Error> {
        let (connection, name) = self.at(text)?;
        if name.is_empty() {
            return Err(Error::Usage(format!("{text:?} has no name after its remote")));
        }
        Ok((connection, name))
    }

    /// The connection of `[<remote>:]` alone, and of nothing.
    pub(super) fn remote(&self, text: Option<&str>) -> Result<Rc<Connection>, Error> {
        let text = text.unwrap_or_default();
        if !text.is_empty() && !text.ends_with(':') {
            return Err(Error::Usage(format!("{text:?} is no remote: those end with a colon")));
        }
        Ok(self.at(text)?.0)
    }

    /// Separates a leading `<remote>:` from the words after it.
    pub(super) fn leading<'a>(&self, words: &'a [String]) -> Result<(Rc<Connection>, &'a [String]), Error> {
        match words.split_first() {
            Some((first, rest)) if first.ends_with(':') => Ok((self.remote(Some(first))?, rest)),
            _ => Ok((self.remote(None)?, words)),
        }
    }

    /// Separates the remote that leads the words of a list from its filters: `<remote>:`, `<remote>:<filter>`. A colon in the
    /// value of a filter (`ipv6=fd42::1`) is only that.
    pub(super) fn filtered(&self, words: &[String]) -> (String, Vec<String>) {
        let led = words.split_first().and_then(|(first, rest)| {
            let (remote, word) = first.split_once(':').filter(|(remote, _)| !remote.contains('='))?;
            let word = (!word.is_empty()).then(|| word.to_owned());
            Some((remote.to_owned(), word.into_iter().chain(rest.iter().cloned()).collect()))
        });
        led.unwrap_or_else(|| (self.at_hand(), words.to_vec()))
    }

    /// The remote that is meant when none is named.
    fn at_hand(&self) -> String {
        if self.globals.force_local { "local".to_owned() } else { self.settings().default_remote.clone() }
    }

    /// Cancels what all servers are doing for us. False: nothing was waited for.
    pub(super) async fn cancel(&self) -> bool {
        let connections: Vec<Rc<Connection>> = self.connections.borrow().values().cloned().collect();
        let cancelled = connections.iter().map(|connection| connection.cancel());
        futures_util::future::join_all(cancelled).await.contains(&true)
    }

    /// Says what was done, unless that is not wanted.
    pub(super) fn say(&self, text: &str) -> Result<(), Error> {
        if self.globals.quiet { Ok(()) } else { super::output::print(&format!("{}\n", super::output::harmless(text))) }
    }
}
