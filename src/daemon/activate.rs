//! `activateifneeded`: at boot, where systemd holds the socket, starts the daemon only if there is work for it.
//!
//! The database is read without the daemon; touching the socket starts it. With a daemon that runs already, touching is
//! harmless. Texts are LXD's, for scripts.

use http::Method;

use super::local::request;
use crate::api::wire::Config;
use crate::cli::output;
use crate::db::{self, Model, Peek};
use crate::instance::wants_start;
use crate::profile;
use crate::state_dir::StateDir;
use crate::volume;

/// Why the daemon is needed; `None` when it is not.
fn reason(model: &Model) -> Option<&'static str> {
    if model.config.get("core.https_address").is_some_and(|address| !address.is_empty()) {
        return Some("Daemon has core.https_address set, activating...");
    }
    let instances = || model.instances.values().map(|record| (record, profile::expand_instance(model, record).config));
    let starts = |(record, expanded): (&std::sync::Arc<db::Instance>, Config)| {
        let ran = record.config.get("volatile.last_state.power").is_some_and(|power| power == "RUNNING");
        wants_start(&expanded, ran)
    };
    if instances().any(starts) {
        return Some("Daemon has auto-started instances, activating...");
    }
    let scheduled = |expanded: &Config| expanded.get("snapshots.schedule").is_some_and(|when| !when.is_empty());
    if instances().any(|(_, expanded)| scheduled(&expanded)) {
        return Some("Daemon has scheduled instance snapshots, activating...");
    }
    if volume::has_schedule(model) {
        return Some("Daemon has scheduled volume snapshots, activating...");
    }
    None
}

/// `Err` only for what cannot be found out.
pub(super) async fn run(dir: &StateDir, debug: bool) -> Result<(), String> {
    let say = |text: &str| {
        if debug {
            output::note(text);
        }
    };
    let why = match db::peek(&dir.database()).map_err(|e| e.to_string())? {
        Peek::Nothing => {
            say("No database, so no need to start the daemon now");
            return Ok(());
        }
        // An upgrade of the program: whether there is work, only the daemon can tell once it has migrated.
        Peek::OtherVersion(version) => Some(format!("The database has schema version {version}, activating...")),
        Peek::Known(model) => reason(&model).map(str::to_owned),
    };
    let Some(why) = why else {
        say("No need to start the daemon now");
        return Ok(());
    };
    say(&why);
    if let Err(error) = request(&dir.socket(), Method::GET, "/1.0", None).await {
        // Scripts count on success; a person should know nevertheless.
        output::note(&format!("warrend could not be started by its socket: {error}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::names::{InstanceKey, InstanceName, PoolName, ProjectName};

    fn with_instance(config: &[(&str, &str)]) -> Model {
        let key = InstanceKey { project: ProjectName::default(), name: InstanceName::new("c1".to_owned()).unwrap() };
        let record = db::Instance {
            key: key.clone(),
            phase: db::Phase::Ready,
            description: String::new(),
            architecture: "x86_64".to_owned(),
            ephemeral: false,
            profiles: Vec::new(),
            config: config.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            devices: Default::default(),
            created_at: 0,
            last_used_at: 0,
            pool: PoolName::new("p".to_owned()).unwrap(),
        };
        Model { instances: Arc::new([(key, Arc::new(record))].into()), ..Model::default() }
    }

    #[test]
    fn each_reason_has_its_text() {
        assert_eq!(reason(&Model::default()), None);
        assert_eq!(reason(&with_instance(&[])), None);
        let ran = ("volatile.last_state.power", "RUNNING");
        assert!(reason(&with_instance(&[ran])).unwrap().contains("auto-started"));
        assert_eq!(reason(&with_instance(&[ran, ("boot.autostart", "false")])), None);
        assert!(reason(&with_instance(&[("boot.autostart", "1")])).unwrap().contains("auto-started"));
        assert!(reason(&with_instance(&[("snapshots.schedule", "@daily")])).unwrap().contains("instance snapshots"));
        let mut model = with_instance(&[ran]);
        model.config = Arc::new([("core.https_address".to_owned(), ":8443".to_owned())].into());
        assert!(reason(&model).unwrap().contains("core.https_address"));
    }
}
