//! The writer against a real file.

use super::{Database, Error, Phase, Pool, Profile};
use crate::names::{PoolName, ProfileName, ProjectName};

fn profile(name: &str, description: &str) -> Profile {
    Profile {
        project: ProjectName::default(),
        name: ProfileName::new(name).unwrap(),
        description: description.to_owned(),
        config: [("user.a".to_owned(), "ü\n\"".to_owned())].into(),
        devices: [("root".to_owned(), [("type".to_owned(), "disk".to_owned())].into())].into(),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

#[test]
fn a_new_database_has_the_default_project_and_profile() {
    let dir = tempfile::tempdir().unwrap();
    let (db, damaged) = Database::open(dir.path()).unwrap();
    assert!(damaged.is_empty());
    let model = db.model();
    assert!(model.projects.contains_key("default"));
    let name = ProfileName::new("default").unwrap();
    assert_eq!(model.profile(&ProjectName::default(), &name).unwrap().description, "Default LXD profile");
    let docker = model.profile(&ProjectName::default(), &ProfileName::new("docker").unwrap()).unwrap();
    assert_eq!(docker.config, [("security.nesting".to_owned(), "true".to_owned())].into());
}

#[test]
fn records_survive_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let written = profile("web", "first");
    runtime().block_on(async {
        let (db, _) = Database::open(dir.path()).unwrap();
        let record = written.clone();
        db.write(move |tx| tx.put_profile(record)).await.unwrap();
        let record = profile("web", "second");
        db.write(move |tx| tx.put_profile(record)).await.unwrap();
        assert_eq!(db.model().generation, 2);
    });
    let (db, damaged) = Database::open(dir.path()).unwrap();
    assert!(damaged.is_empty());
    let found = db.model().profile(&written.project, &written.name).cloned().unwrap();
    assert_eq!(*found, profile("web", "second"));
}

#[test]
fn a_refused_change_leaves_neither_file_nor_model_changed() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (db, _) = Database::open(dir.path()).unwrap();
        let result: Result<(), Error> = db
            .write(|tx| {
                tx.put_profile(profile("gone", ""))?;
                Err(Error::Full)
            })
            .await;
        assert_eq!(result, Err(Error::Full));
        assert_eq!(db.model().profiles.len(), 2);
    });
    assert_eq!(Database::open(dir.path()).unwrap().0.model().profiles.len(), 2);
}

#[test]
fn a_panicking_change_is_undone_and_the_writer_lives() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (db, _) = Database::open(dir.path()).unwrap();
        let result: Result<(), Error> = db
            .write(|tx| {
                tx.put_profile(profile("gone", ""))?;
                panic!("deliberate");
            })
            .await;
        assert_eq!(result, Err(Error::Lost));
        db.write(|tx| tx.put_profile(profile("kept", ""))).await.unwrap();
        assert_eq!(db.model().profiles.len(), 3);
    });
}

#[test]
fn many_writers_share_commits_and_all_succeed() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (db, _) = Database::open(dir.path()).unwrap();
        let writes = (0..200).map(|n| db.write(move |tx| tx.put_profile(profile(&format!("p{n}"), ""))));
        let results: Vec<Result<(), Error>> = futures_util::future::join_all(writes).await;
        assert!(results.iter().all(Result::is_ok));
        let model = db.model();
        assert_eq!(model.profiles.len(), 202);
        assert!(model.generation < 200, "group commit: {} transactions for 200 writes", model.generation);
    });
}

#[test]
fn a_damaged_row_is_left_out_and_named() {
    use diesel::connection::SimpleConnection;
    use diesel::prelude::*;
    let dir = tempfile::tempdir().unwrap();
    drop(Database::open(dir.path()).unwrap());
    let path = dir.path().join("db.sqlite");
    let mut raw = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
    raw.batch_execute("INSERT INTO profiles VALUES ('default', 'bad', '', 'not json', '{}')").unwrap();
    drop(raw);
    let (db, damaged) = Database::open(dir.path()).unwrap();
    assert_eq!(db.model().profiles.len(), 2);
    assert!(damaged[0].to_string().contains("profiles/default/bad"), "{}", damaged[0]);
}

#[test]
fn a_newer_file_is_refused() {
    use diesel::connection::SimpleConnection;
    use diesel::prelude::*;
    let dir = tempfile::tempdir().unwrap();
    drop(Database::open(dir.path()).unwrap());
    let path = dir.path().join("db.sqlite");
    let mut raw = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
    raw.batch_execute("PRAGMA user_version = 999").unwrap();
    drop(raw);
    assert!(matches!(Database::open(dir.path()), Err(Error::TooNew { found: 999, .. })));
}

#[test]
fn deleting_an_image_takes_its_aliases_but_updating_it_does_not() {
    use super::{Alias, Image};
    use crate::names::{AliasName, Fingerprint};
    let dir = tempfile::tempdir().unwrap();
    let fingerprint = Fingerprint::new("a".repeat(64)).unwrap();
    let image = Image {
        project: ProjectName::default(),
        fingerprint: fingerprint.clone(),
        phase: Phase::Ready,
        filename: String::new(),
        size: 1,
        public: false,
        auto_update: false,
        cached: false,
        architecture: "x86_64".to_owned(),
        properties: Default::default(),
        profiles: Vec::new(),
        created_at: 0,
        expires_at: 0,
        is_expiry_set: false,
        last_used_at: 0,
        update_source: None,
        uploaded_at: 0,
    };
    let alias = Alias {
        project: ProjectName::default(),
        name: AliasName::new("a/b").unwrap(),
        description: String::new(),
        target: fingerprint.clone(),
    };
    runtime().block_on(async {
        let (db, _) = Database::open(dir.path()).unwrap();
        let (first, second) = (image.clone(), image.clone());
        db.write(move |tx| tx.put_image(first)).await.unwrap();
        db.write(move |tx| tx.put_alias(alias)).await.unwrap();
        db.write(move |tx| tx.put_image(second)).await.unwrap();
    });
    runtime().block_on(async {
        let (db, _) = Database::open(dir.path()).unwrap();
        assert_eq!(db.model().aliases.len(), 1);
        db.write(move |tx| tx.delete_image(&ProjectName::default(), &fingerprint)).await.unwrap();
        assert_eq!(db.model().aliases.len(), 0);
    });
    let (db, _) = Database::open(dir.path()).unwrap();
    assert!(db.model().aliases.is_empty());
}

#[test]
fn a_pool_comes_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (db, _) = Database::open(dir.path()).unwrap();
        let name = PoolName::new("p").unwrap();
        let pool = Pool {
            name: name.clone(),
            phase: Phase::Ready,
            driver: "dir".to_owned(),
            description: String::new(),
            config: Default::default(),
        };
        db.write(move |tx| tx.put_pool(pool)).await.unwrap();
        db.write(move |tx| tx.delete_pool(&name)).await.unwrap();
        assert!(db.model().pools.is_empty());
    });
}
