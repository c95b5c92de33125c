//! What happens to the rows of a project as a whole.

use std::sync::Arc;

use diesel::prelude::*;

use super::model::{Certificate, Profile, Project, TrustToken};
use super::{Error, Tx, schema};
use crate::names::ProjectName;

impl Tx<'_> {
    /// Removes a project. What lies in it is the caller's to remove before; certificates forget it.
    ///
    /// # Errors
    /// When a statement fails, or something still refers to it.
    pub fn delete_project(&mut self, name: &ProjectName) -> Result<(), Error> {
        self.forget_project(name, None)?;
        diesel::delete(schema::projects::table.find(name.as_str())).execute(self.connection)?;
        Arc::make_mut(&mut self.model.projects).remove(name);
        Ok(())
    }

    /// Gives a project another name, with its profiles. Nothing else may lie in it.
    ///
    /// # Errors
    /// When a statement fails, or something still refers to it.
    pub fn rename_project(&mut self, old: &ProjectName, new: Project) -> Result<(), Error> {
        let name = new.name.clone();
        self.put_project(new)?;
        let own: Vec<_> = self.model.profiles.values().filter(|profile| profile.project == *old).cloned().collect();
        for profile in own {
            self.delete_profile(old, &profile.name)?;
            self.put_profile(Profile { project: name.clone(), ..(*profile).clone() })?;
        }
        self.forget_project(old, Some(&name))?;
        diesel::delete(schema::projects::table.find(old.as_str())).execute(self.connection)?;
        Arc::make_mut(&mut self.model.projects).remove(old);
        Ok(())
    }

    /// Certificates and tokens that are limited to a project know it by its new name, or no more.
    fn forget_project(&mut self, old: &ProjectName, new: Option<&ProjectName>) -> Result<(), Error> {
        let limited: Vec<_> =
            self.model.certificates.values().filter(|record| record.projects.contains(old)).cloned().collect();
        let renamed = |projects: &[ProjectName]| -> Vec<ProjectName> {
            let kept = projects.iter().filter_map(|name| if name == old { new } else { Some(name) });
            kept.cloned().collect()
        };
        for record in limited {
            self.put_certificate(Certificate { projects: renamed(&record.projects), ..(*record).clone() })?;
        }
        let tokens: Vec<_> =
            self.model.trust_tokens.values().filter(|token| token.projects.contains(old)).cloned().collect();
        for token in tokens {
            self.put_trust_token(TrustToken { projects: renamed(&token.projects), ..(*token).clone() })?;
        }
        Ok(())
    }
}
