use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;

use super::super::copy::tests::{Facts, apply, facts};
use super::*;

type Changes = Vec<(u8, u8, u8)>;

/// What is there, but for how many names a file has: a layer's file keeps the count of names that it had there.
fn shown(root: &Path) -> BTreeMap<PathBuf, Facts> {
    let mut found = facts(root);
    for facts in found.values_mut() {
        facts.links = 0;
        facts.first = PathBuf::new();
    }
    found
}

struct Place {
    dir: tempfile::TempDir,
    driver: Overlay,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        for name in ["images", LAYERS, "containers", ".new", ".trash"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir, driver: Overlay::default() }
    }

    fn pool(&self) -> &Path {
        self.dir.path()
    }

    fn volume(&self, name: &str) -> PathBuf {
        self.pool().join("containers").join(name)
    }

    fn make(&self, name: &str, what: Make<'_>) {
        self.driver.make(self.pool(), &self.volume(name), what).unwrap();
    }

    /// Does `work` with the mounted root of a volume.
    fn with<T>(&self, name: &str, work: impl FnOnce(&Path) -> T) -> T {
        let root = self.driver.mount(self.pool(), &self.volume(name), None).unwrap().path;
        let result = work(&root);
        mount::unmount(&root).unwrap();
        result
    }

    fn delete(&self, name: &str) {
        let trash = super::super::files::trash(self.pool());
        fs::rename(self.volume(name), &trash).unwrap();
        self.driver.discard(self.pool(), &trash).unwrap();
    }

    fn layers(&self) -> usize {
        fs::read_dir(self.pool().join(LAYERS)).unwrap().count()
    }
}

/// Nothing that writes is held: the test's own is over.
struct Nobody;

impl Pause for Nobody {
    fn pause(&self) -> Result<(), Error> {
        Ok(())
    }

    fn resume(&self) -> Result<(), Error> {
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Snapshots, more than a volume may have layers, show what was there when they were made; so do copies of them; what
    /// nobody uses goes.
    #[test]
    fn snapshots_keep_what_was_there(steps in proptest::collection::vec(
        (proptest::collection::vec(any::<(u8, u8, u8)>(), 0..10), any::<bool>()), 1..14)) {
        let place = Place::new();
        place.make("c", Make::Empty);
        let mut kept = Vec::new();
        for (number, (changes, live)) in steps.into_iter().enumerate() {
            let root = place.driver.mount(place.pool(), &place.volume("c"), None).unwrap().path;
            changes.into_iter().for_each(|change| apply(&root, change));
            let name = format!("s{number}");
            let of = place.volume("c");
            let seen = shown(&root);
            if live {
                place.make(&name, Make::Snapshot { of: &of, live: Some(&Nobody) });
                mount::unmount(&root).unwrap();
            } else {
                mount::unmount(&root).unwrap();
                place.make(&name, Make::Snapshot { of: &of, live: None });
            }
            prop_assert_eq!(&place.with("c", shown), &seen, "the volume itself after {}", &name);
            kept.push((name, seen));
        }
        for (name, seen) in &kept {
            prop_assert_eq!(&place.with(name, shown), seen, "{}", name);
            prop_assert!(place.with(name, |root| fs::write(root.join("new"), "")).is_err(), "nobody writes to a snapshot");
        }
        let (first, seen) = kept.first().unwrap();
        let of = place.volume(first);
        place.make("copy", Make::Copy { of: &of, live: None });
        prop_assert_eq!(&place.with("copy", shown), seen);
        place.with("copy", |root| fs::write(root.join("new"), "").unwrap());
        prop_assert_eq!(&place.with(first, shown), seen, "a copy does not write to what it is of");
        place.delete("c");
        for (name, seen) in kept.iter().rev() {
            prop_assert_eq!(&place.with(name, shown), seen, "{} after its volume went", name);
            place.delete(name);
        }
        place.delete("copy");
        prop_assert_eq!(place.layers(), 0);
    }

    /// Merged layers show the same over the image as they did one by one.
    #[test]
    fn merged_layers_are_what_they_were(
        image in proptest::collection::vec(any::<(u8, u8, u8)>(), 0..20),
        steps in proptest::collection::vec(proptest::collection::vec(any::<(u8, u8, u8)>(), 0..12), 1..5),
    ) {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["image", "target", "merged"] {
            fs::create_dir(at(name)).unwrap();
        }
        let image: Changes = image;
        image.into_iter().for_each(|change| apply(&at("image"), change));
        let mut lowers = vec![at("image")];
        for (number, changes) in steps.into_iter().enumerate() {
            let upper = at(&number.to_string());
            prepare_upper(&upper).unwrap();
            mount_layers(dir.path(), &lowers, Some(&upper), &at("target"), None).unwrap();
            changes.into_iter().for_each(|change| apply(&at("target"), change));
            mount::unmount(&at("target")).unwrap();
            lowers.insert(0, upper.join("fs"));
        }
        let see = |lowers: &[PathBuf]| {
            mount_layers(dir.path(), lowers, None, &at("target"), None).unwrap();
            let seen = shown(&at("target"));
            mount::unmount(&at("target")).unwrap();
            seen
        };
        let before = see(&lowers);
        let image = lowers.pop().unwrap();
        merge::merge(&lowers, &at("merged")).unwrap();
        prop_assert_eq!(see(&[at("merged"), image]), before);
    }
}

#[test]
fn a_change_that_a_crash_broke_off_leaves_nothing() {
    let place = Place::new();
    place.make("c", Make::Empty);
    place.with("c", |root| fs::write(root.join("file"), "kept").unwrap());
    // As if it had died with the new upper made, and its record not yet in place.
    let (of, id) = (place.volume("c"), LayerId::new());
    let record = read(&of, RECORD).unwrap();
    place.driver.layers.make(place.pool(), &id, &record.id).unwrap();
    let next = Volume { upper: Some(id), layers: vec![record.upper.clone().unwrap()], ..record };
    write(&of, NEXT, &next).unwrap();
    assert_eq!(place.layers(), 2);
    place.make("s", Make::Snapshot { of: &of, live: None });
    assert_eq!(place.layers(), 2, "the volume's new upper, and the one that was");
    assert_eq!(place.with("s", |root| fs::read_to_string(root.join("file"))).unwrap(), "kept");
    place.delete("c");
    place.delete("s");
    assert_eq!(place.layers(), 0);
}

#[test]
fn a_pool_that_goes_waits_for_layers_that_go() {
    let place = Place::new();
    place.make("c", Make::Empty);
    place.with("c", |root| {
        (0..20_000).for_each(|number| fs::write(root.join(number.to_string()), "").unwrap());
    });
    place.delete("c");
    assert_eq!(place.layers(), 0);
    let trash = place.pool().join(".trash");
    let left = || fs::read_dir(&trash).unwrap().flatten().next().map(|layer| layer.path().join("fs"));
    while left().is_some_and(|layer| fs::read_dir(layer).is_ok_and(|files| files.count() == 20_000)) {}
    // It has begun: what a pool that is deleted does is over when that is.
    place.driver.purges.close();
    assert_eq!(left(), None);
}
