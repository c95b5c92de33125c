//! The lines that a check prints.

use std::fmt::Write;

use super::found::{Found, Source};
use super::judge::{self, Verdict};

/// How many objects there are of each sort.
#[derive(Default)]
struct Sum {
    same: usize,
    differing: usize,
    refused: usize,
}

struct Report {
    text: String,
    sum: Sum,
}

impl Report {
    fn line(&mut self, text: &str) {
        // Names and values are another program's: nothing of them reaches the terminal but text.
        self.text.extend(text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }));
        self.text.push('\n');
    }

    fn object(&mut self, kind: &str, project: &str, name: &str, note: &str, verdict: Verdict) {
        let mut line = format!("{kind:<9} {name}");
        if !matches!(project, "" | "default") {
            // Writing to a text cannot fail.
            let _ = write!(line, " (project {project})");
        }
        line.push_str(note);
        match verdict {
            Verdict { refused: Some(reason), .. } => {
                self.sum.refused += 1;
                self.line(&format!("no   {line}: {reason}"));
            }
            Verdict { differences, .. } if differences.is_empty() => {
                self.sum.same += 1;
                self.line(&format!("yes  {line}"));
            }
            Verdict { differences, .. } => {
                self.sum.differing += 1;
                self.line(&format!("yes  {line}, but"));
                for difference in differences {
                    self.line(&format!("       - {difference}"));
                }
            }
        }
    }
}

/// The whole report, with a last line that counts.
pub(super) fn text(directory: &str, found: &Found) -> String {
    let mut report = Report { text: String::new(), sum: Sum::default() };
    let how = match found.source {
        Source::Api => "it runs and was asked".to_owned(),
        Source::Database { stale: false } => "it is stopped, its database was read".to_owned(),
        Source::Database { stale: true } => {
            "it is stopped, but was killed: its database was read as it was at its last \
            orderly end; start it and check again to see what came after"
                .to_owned()
        }
        Source::Backups => {
            "it has no database that was written out: these are the records beside its instances, in pools \
            that are mounted; start it and check again to see all"
                .to_owned()
        }
    };
    report.line(&format!("LXD in {directory}: {how}."));
    if found.members > 1 {
        report.line(&format!(
            "It is one of {} servers of a cluster. There are no clusters here: what lies on the others is not looked at.",
            found.members
        ));
    }
    for difference in judge::server(&found.config) {
        report.line(&format!("server: {difference}"));
    }
    if found.certificates > 0 {
        report.line(&format!("{} trusted certificates, whose keys keep fitting", found.certificates));
    }
    objects(&mut report, found);
    let Sum { same, differing, refused } = report.sum;
    report
        .line(&format!("{same} as they are, {differing} with differences, {refused} not at all. Nothing was changed."));
    report.text
}

fn objects(report: &mut Report, found: &Found) {
    for project in found.projects.iter().filter(|project| project.name != "default") {
        report.object("project", "", &project.name, "", judge::project(project));
    }
    for pool in &found.pools {
        report.object("pool", "", &pool.name, &format!(" ({})", pool.driver), judge::pool(pool));
    }
    for network in &found.networks {
        let note = format!(" ({})", network.kind);
        report.object("network", &network.project, &network.name, &note, judge::network(network));
    }
    for acl in &found.acls {
        let note = format!(" ({} rules)", acl.ingress.len() + acl.egress.len());
        report.object("acl", &acl.project, &acl.name, &note, judge::acl(acl));
    }
    for forward in &found.forwards {
        let name = format!("{}/{}", forward.network, forward.listen);
        report.object("forward", &forward.project, &name, "", judge::forward(found, forward));
    }
    for zone in &found.zones {
        report.object("zone", &zone.project, &zone.name, "", judge::zone(zone));
    }
    for profile in &found.profiles {
        report.object("profile", &profile.project, &profile.name, "", judge::profile(profile));
    }
    for image in &found.images {
        let name = image.fingerprint.get(..12).unwrap_or(&image.fingerprint);
        let note = if image.aliases.is_empty() { String::new() } else { format!(" ({})", image.aliases.join(", ")) };
        report.object("image", &image.project, name, &note, judge::image(image));
    }
    for volume in &found.volumes {
        let name = format!("{}/{}", volume.pool, volume.name);
        report.object("volume", &volume.project, &name, "", judge::volume(found, volume));
    }
    for instance in &found.instances {
        let mut notes = Vec::new();
        if instance.snapshots > 0 {
            notes.push(format!("{} snapshots", instance.snapshots));
        }
        if instance.is_running {
            notes.push("running: to be stopped first".to_owned());
        }
        let note = if notes.is_empty() { String::new() } else { format!(" ({})", notes.join(", ")) };
        report.object("instance", &instance.project, &instance.name, &note, judge::instance(found, instance));
    }
}
