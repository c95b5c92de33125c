//! `/1.0/profiles`.

use std::sync::Arc;

use super::call::Call;
use super::error::{Error, Users};
use super::response::{self, Response};
use super::wire;
use crate::config::{self, Scope};
use crate::db::{Feature, Image, Model, Profile};
use crate::device;
use crate::instance;
use crate::names::{ProfileName, ProjectName};
use crate::project;

type Result<T> = std::result::Result<T, Error>;

fn used_by(model: &Model, project: &ProjectName, name: &ProfileName) -> Vec<String> {
    instance::users_of(model, project, name).map(|user| user.key.url()).collect()
}

fn to_wire(call: &Call, model: &Model, profile: &Profile) -> wire::Profile {
    wire::Profile {
        config: profile.config.clone(),
        description: profile.description.clone(),
        devices: profile.devices.clone(),
        name: profile.name.to_string(),
        used_by: call.visible(used_by(model, &profile.project, &profile.name)),
    }
}

/// The modifiable part, for the ETag.
fn modifiable(profile: &Profile) -> (&wire::Config, &String, &wire::Devices) {
    (&profile.config, &profile.description, &profile.devices)
}

fn find(call: &Call) -> Result<(Arc<Model>, Arc<Profile>)> {
    let model = call.app.db.model();
    let name = call.named("name", "Profile", ProfileName::new)?;
    let profile = model.profile(&call.project()?, &name).cloned().ok_or(Error::NotFound("Profile"))?;
    Ok((model, profile))
}

/// `GET /1.0/profiles`.
pub async fn list(call: Call) -> Result<Response> {
    let (model, project) = (call.app.db.model(), call.scope_of(Feature::Profiles)?);
    let profiles = model.profiles.values().filter(|profile| project.holds(&profile.project));
    call.list(
        profiles,
        |profile| profile.project.url(format_args!("/1.0/profiles/{}", profile.name.in_url())),
        |profile| to_wire(&call, &model, profile),
    )
}

/// `GET /1.0/profiles/<name>`.
pub async fn get(call: Call) -> Result<Response> {
    let (model, profile) = find(&call)?;
    Ok(response::tagged(to_wire(&call, &model, &profile), &response::etag(modifiable(&profile))))
}

fn check(context: &instance::Context, profile: &Profile) -> Result<()> {
    context.check_privilege(&profile.config)?;
    config::validate_instance(&profile.config, Scope::Profile)?;
    device::validate(&profile.devices)?;
    context.check_networks(&profile.project, &profile.devices)?;
    Ok(context.check_volumes(&profile.project, &profile.devices)?)
}

/// `POST /1.0/profiles`.
pub async fn create(mut call: Call) -> Result<Response> {
    let body: wire::Profile = call.json().await?;
    let profile = Profile {
        project: call.holder(Feature::Profiles)?,
        name: ProfileName::new(body.name)?,
        description: body.description,
        config: body.config,
        devices: body.devices,
    };
    check(call.app.instances.context(), &profile)?;
    call.app.instances.context().check_raw(&wire::Config::new(), &profile.config).await?;
    if call.is_dry_run() {
        if call.app.db.model().profile(&profile.project, &profile.name).is_some() {
            return Err(Error::Exists { what: "Profile", name: profile.name.to_string() });
        }
        call.app.instances.preview_profile(&call.app.db.model(), &profile, &call.trust.projects())?;
        return Ok(response::empty());
    }
    let (url, project) = (format!("/1.0/profiles/{}", profile.name.in_url()), profile.project.clone());
    call.app
        .db
        .write(move |tx| {
            project::require(tx.model(), &profile.project)?;
            if tx.model().profile(&profile.project, &profile.name).is_some() {
                return Err(Error::Exists { what: "Profile", name: profile.name.to_string() });
            }
            tx.put_profile(profile.clone())?;
            Ok::<_, Error>(project::check_profile(tx.model(), &profile)?)
        })
        .await?;
    call.lifecycle("profile-created", &url);
    Ok(response::created(&project.url(url)))
}

/// Replaces the modifiable part by what `change` makes of it.
async fn update(call: Call, change: impl Fn(&Profile) -> Profile + Send + Sync + 'static) -> Result<Response> {
    let (model, old) = find(&call)?;
    let wanted = call.if_match();
    let url = format!("/1.0/profiles/{}", old.name.in_url());
    let context = Arc::clone(call.app.instances.context());
    let change = move |old: &Profile| {
        wanted.check(modifiable(old))?;
        let new = change(old);
        check(&context, &new)?;
        Ok::<_, Error>(new)
    };
    let new = change(&old)?;
    call.app.instances.context().check_raw(&old.config, &new.config).await?;
    if call.is_dry_run() {
        return Ok(response::sync(call.app.instances.preview_profile(&model, &new, &call.trust.projects())?));
    }
    let changed = call.app.instances.change_profile(&old.project, &old.name, Box::new(change)).await?;
    changed.ok_or(Error::NotFound("Profile"))?;
    call.lifecycle("profile-updated", &url);
    Ok(response::empty())
}

/// `PUT /1.0/profiles/<name>`.
pub async fn put(mut call: Call) -> Result<Response> {
    let body: wire::Profile = call.json().await?;
    update(call, move |old| Profile {
        description: body.description.clone(),
        config: body.config.clone(),
        devices: body.devices.clone(),
        ..old.clone()
    })
    .await
}

/// `PATCH /1.0/profiles/<name>`: only what the body names.
pub async fn patch(mut call: Call) -> Result<Response> {
    let (part, named): (wire::Profile, _) = call.json_part().await?;
    update(call, move |old| {
        let mut new = old.clone();
        new.config.extend(part.config.clone());
        new.devices.extend(part.devices.clone());
        if named.has("description") {
            new.description.clone_from(&part.description);
        }
        new
    })
    .await
}

/// The images whose instances get this profile.
fn images_with(model: &Model, profile: &Profile) -> Vec<Image> {
    let has = |image: &&Arc<Image>| {
        image.profiles.contains(&profile.name) && model.holder(&image.project, Feature::Profiles) == profile.project
    };
    model.images.values().filter(has).map(|image| (**image).clone()).collect()
}

/// `POST /1.0/profiles/<name>`: renames.
pub async fn rename(mut call: Call) -> Result<Response> {
    let body: wire::Profile = call.json().await?;
    let new = ProfileName::new(body.name)?;
    let (_, old) = find(&call)?;
    if old.name.as_str() == "default" {
        return Err(Error::DefaultProfile);
    }
    let (url, project) = (format!("/1.0/profiles/{}", new.in_url()), old.project.clone());
    let old_name = old.name.to_string();
    call.app
        .db
        .write(move |tx| {
            let model = tx.model().clone();
            let old = model.profile(&old.project, &old.name).ok_or(Error::NotFound("Profile"))?;
            if model.profile(&old.project, &new).is_some() {
                return Err(Error::Exists { what: "Profile", name: new.to_string() });
            }
            tx.put_profile(Profile { name: new.clone(), ..(**old).clone() })?;
            for instance in instance::users_of(&model, &old.project, &old.name) {
                let mut instance = (**instance).clone();
                for name in instance.profiles.iter_mut().filter(|name| **name == old.name) {
                    *name = new.clone();
                }
                tx.put_instance(instance)?;
            }
            for mut image in images_with(&model, old) {
                for name in image.profiles.iter_mut().filter(|name| **name == old.name) {
                    *name = new.clone();
                }
                tx.put_image(image)?;
            }
            Ok::<_, Error>(tx.delete_profile(&old.project, &old.name)?)
        })
        .await?;
    call.lifecycle_with("profile-renamed", &url, &[("old_name", old_name.into())]);
    Ok(response::created(&project.url(url)))
}

/// `DELETE /1.0/profiles/<name>`.
pub async fn delete(call: Call) -> Result<Response> {
    let (_, profile) = find(&call)?;
    if profile.name.as_str() == "default" {
        return Err(Error::DefaultProfile);
    }
    let url = format!("/1.0/profiles/{}", profile.name.in_url());
    call.app
        .db
        .write(move |tx| {
            tx.model().profile(&profile.project, &profile.name).ok_or(Error::NotFound("Profile"))?;
            if let Some(by) = Users::of(used_by(tx.model(), &profile.project, &profile.name)) {
                return Err(Error::InUse { what: "Profile", name: profile.name.to_string(), by });
            }
            for mut image in images_with(tx.model(), &profile) {
                image.profiles.retain(|name| *name != profile.name);
                tx.put_image(image)?;
            }
            Ok(tx.delete_profile(&profile.project, &profile.name)?)
        })
        .await?;
    call.lifecycle("profile-deleted", &url);
    Ok(response::empty())
}
