//! Composition: profiles in order, then the instance; devices replaced by name.

use std::fmt;

use crate::api::wire::{Config, Devices};
use crate::db::{Instance, Model};
use crate::names::{ProfileName, ProjectName};

/// An instance's configuration and devices with those of its profiles.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expanded {
    /// Profiles in order, later ones win; the instance wins over all.
    pub config: Config,
    /// A device replaces the one of its name as a whole. Those of type `none` are still here: they mask.
    pub devices: Devices,
}

/// A profile that does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing(pub ProfileName);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Profile {:?} not found", self.0.as_str())
    }
}

impl std::error::Error for Missing {}

/// Expands a configuration and devices over `profiles`.
///
/// # Errors
/// [`Missing`] with the first profile that `model` does not have.
pub fn expand(
    model: &Model,
    project: &ProjectName,
    profiles: &[ProfileName],
    config: &Config,
    devices: &Devices,
) -> Result<Expanded, Missing> {
    let mut expanded = Expanded::default();
    for name in profiles {
        let profile = model.profile(project, name).ok_or_else(|| Missing(name.clone()))?;
        expanded.config.extend(profile.config.clone());
        expanded.devices.extend(profile.devices.clone());
    }
    expanded.config.extend(config.clone());
    expanded.devices.extend(devices.clone());
    Ok(expanded)
}

/// Expands an instance as far as its profiles exist (they do: a profile in use cannot be deleted).
pub fn expand_instance(model: &Model, instance: &Instance) -> Expanded {
    expand_known(model, &instance.key.project, &instance.profiles, &instance.config, &instance.devices)
}

/// Expands with those of the profiles that there are.
pub fn expand_known(
    model: &Model,
    project: &ProjectName,
    profiles: &[ProfileName],
    config: &Config,
    devices: &Devices,
) -> Expanded {
    let mut known = profiles.to_vec();
    known.retain(|name| model.profile(project, name).is_some());
    expand(model, project, &known, config, devices).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::db::Profile;

    fn map(pairs: &[(&str, &str)]) -> Config {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    /// Name, configuration, devices.
    type Sample<'a> = (&'a str, Pairs<'a>, &'a [(&'a str, Pairs<'a>)]);

    fn model(profiles: &[Sample<'_>]) -> Model {
        let mut model = Model::default();
        for (name, config, devices) in profiles {
            let profile = Profile {
                project: ProjectName::default(),
                name: ProfileName::new(*name).unwrap(),
                description: String::new(),
                config: map(config),
                devices: devices.iter().map(|(n, d)| ((*n).to_owned(), map(d))).collect(),
            };
            let key = (profile.project.clone(), profile.name.clone());
            Arc::make_mut(&mut model.profiles).insert(key, Arc::new(profile));
        }
        model
    }

    fn names(names: &[&str]) -> Vec<ProfileName> {
        names.iter().map(|n| ProfileName::new(*n).unwrap()).collect()
    }

    #[test]
    fn later_profiles_win_and_the_instance_wins_over_all() {
        let model = model(&[
            ("a", &[("user.x", "a"), ("user.y", "a"), ("user.z", "a")], &[]),
            ("b", &[("user.y", "b"), ("user.z", "b")], &[]),
        ]);
        let own = map(&[("user.z", "own")]);
        let project = ProjectName::default();
        let got = expand(&model, &project, &names(&["a", "b"]), &own, &Devices::new()).unwrap();
        assert_eq!(got.config, map(&[("user.x", "a"), ("user.y", "b"), ("user.z", "own")]));
        let got = expand(&model, &project, &names(&["b", "a"]), &Config::new(), &Devices::new()).unwrap();
        assert_eq!(got.config["user.y"], "a");
    }

    #[test]
    fn a_device_is_replaced_whole() {
        let model = model(&[("a", &[], &[("eth0", &[("type", "nic"), ("mtu", "1400")])])]);
        let own: Devices = [("eth0".to_owned(), map(&[("type", "none")]))].into();
        let got = expand(&model, &ProjectName::default(), &names(&["a"]), &Config::new(), &own).unwrap();
        assert_eq!(got.devices["eth0"], map(&[("type", "none")]));
    }

    #[test]
    fn a_missing_profile_is_named() {
        let model = Model::default();
        let project = ProjectName::default();
        let error = expand(&model, &project, &names(&["web"]), &Config::new(), &Devices::new()).unwrap_err();
        assert_eq!(error.to_string(), "Profile \"web\" not found");
    }
}
