//! Operations and their events.

use serde_json::Value;

use super::{Class, Error, KEEP, Operations, Spec, Status};
use crate::events::{Bus, Filter, Kind};
use crate::names::{ProjectName, Projects};

fn spec(may_cancel: bool) -> Spec {
    Spec {
        description: "Testing",
        project: ProjectName::default(),
        resources: Default::default(),
        metadata: None,
        requestor: None,
        may_cancel,
    }
}

#[tokio::test]
async fn events_follow_the_changes_and_the_last_one_never_overtakes_the_result() {
    let bus = Bus::default();
    let operations = Operations::new(bus.clone());
    let mut events = bus.subscribe(Filter { kinds: vec![Kind::Operation], projects: Projects::All, of_server: true });
    let ids: Vec<_> = (0..200)
        .map(|n| {
            operations
                .task(spec(false), async move |handle| {
                    handle.add_metadata("n", n.into());
                    if n % 2 == 0 { Ok(()) } else { Err("odd") }
                })
                .id()
        })
        .collect();
    let mut seen: std::collections::BTreeMap<String, Vec<u64>> = Default::default();
    let mut finals = 0;
    while finals < 200 {
        let event: Value = serde_json::from_str(&events.recv().await.unwrap()).unwrap();
        let id = event["metadata"]["id"].as_str().unwrap().to_owned();
        let code = event["metadata"]["status_code"].as_u64().unwrap();
        if code >= 200 {
            finals += 1;
            let operation = operations.get(id.parse().unwrap()).unwrap();
            assert!(operation.status().is_final(), "the result is there when its event is");
        }
        seen.entry(id).or_default().push(code);
    }
    for id in ids {
        let codes = &seen[&id.to_string()];
        assert_eq!(codes[..3], [105, 103, 103]);
        assert!(codes.len() == 4 && codes[3] >= 200, "{codes:?}");
    }
}

#[tokio::test]
async fn a_panic_fails_the_operation() {
    let operations = Operations::new(Bus::default());
    let operation = operations.task(spec(false), async move |_| -> Result<(), &str> { panic!("deliberate") });
    operation.wait(None).await;
    assert_eq!(operation.status(), Status::Failure);
    assert!(operation.to_wire().err.contains("panicked"));
}

#[tokio::test]
async fn only_a_cancellable_operation_is_cancelled() {
    let operations = Operations::new(Bus::default());
    let stubborn = operations.task(spec(false), async move |_| {
        std::future::pending::<()>().await;
        Ok::<(), &str>(())
    });
    assert_eq!(stubborn.cancel(), Err(Error::NotCancellable));
    let meek = operations.task(spec(true), async move |_| {
        std::future::pending::<()>().await;
        Ok::<(), &str>(())
    });
    assert_eq!(meek.cancel(), Ok(()));
    meek.wait(None).await;
    assert_eq!(meek.status(), Status::Cancelled);
    assert_eq!(meek.cancel(), Err(Error::NotRunning));
}

#[tokio::test]
async fn a_wait_with_a_timeout_returns_before_the_end() {
    let operations = Operations::new(Bus::default());
    let operation = operations.task(spec(true), async move |_| {
        std::future::pending::<()>().await;
        Ok::<(), &str>(())
    });
    operation.wait(Some(std::time::Duration::ZERO)).await;
    assert_eq!(operation.status(), Status::Running);
}

#[tokio::test]
async fn a_secret_opens_its_websocket_once() {
    let operations = Operations::new(Bus::default());
    let operation = operations
        .websocket(spec(false), &["0", "control"], async move |_handle| {
            std::future::pending::<()>().await;
            Ok::<(), &str>(())
        })
        .unwrap();
    let told = operation.to_wire().metadata.unwrap();
    let secret = told["fds"]["0"].as_str().unwrap().to_owned();
    assert_eq!(secret.len(), 64);
    assert!(matches!(operation.connect("wrong"), Err(Error::Secret)));
    let slot = operation.connect(&secret).unwrap();
    assert!(matches!(operation.connect(&secret), Err(Error::Connected)));
    drop(slot);
}

#[tokio::test(start_paused = true)]
async fn the_result_can_be_read_five_seconds_after_the_end_and_not_for_ever() {
    let operations = Operations::new(Bus::default());
    let operation = operations.task(spec(false), async move |handle| {
        handle.extend_metadata(serde_json::Map::from_iter([("return".to_owned(), 3.into())]));
        Ok::<_, Error>(())
    });
    operation.wait(None).await;
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    let metadata = operations.get(operation.id()).unwrap().to_wire().metadata.unwrap();
    assert_eq!(metadata["return"], 3);
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(operations.get(operation.id()).err(), Some(Error::NotFound));
}

#[tokio::test(start_paused = true)]
async fn a_permission_is_for_its_object_and_for_one_use() {
    let operations = Operations::new(Bus::default());
    let token = |object: &str| {
        let resources = [("images".to_owned(), vec![format!("/1.0/images/{object}")])].into();
        operations.token(Spec { resources, ..spec(false) }).unwrap()
    };
    let secret_of = |token: &super::Operation| {
        let told = token.to_wire().metadata.unwrap();
        told["secret"].as_str().unwrap().to_owned()
    };
    let one = token("a");
    let secret = secret_of(&one);
    assert_eq!((one.class(), one.status()), (Class::Token, Status::Running));
    assert!(one.to_wire().may_cancel && one.tells(&secret) && !one.tells("") && !one.tells("x"));
    assert!(operations.use_token("b", &secret).is_err() && operations.use_token("a", "").is_err());
    assert_eq!(one.status(), Status::Running, "a wrong try uses nothing up");
    assert!(operations.use_token("a", &secret).is_ok());
    one.wait(None).await;
    assert_eq!(one.status(), Status::Cancelled);
    // What needs two requests gets them, for a moment.
    assert!(operations.use_token("a", &secret).is_ok());
    tokio::time::sleep(KEEP * 2).await;
    assert!(operations.use_token("a", &secret).is_err());
    // One that was taken back is good for nothing.
    let two = token("a");
    let secret = secret_of(&two);
    two.cancel().unwrap();
    assert!(operations.use_token("a", &secret).is_err());
}

#[tokio::test]
async fn an_operation_may_say_that_it_is_too_late_to_cancel_it() {
    let operations = Operations::new(Bus::default());
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    let (ready, is_ready) = tokio::sync::oneshot::channel::<()>();
    let late = operations.task(spec(true), async move |handle| {
        handle.forbid_cancel().await;
        let _ = ready.send(());
        gone.await.map_err(|_| Error::NotRunning)
    });
    is_ready.await.unwrap();
    assert!(!late.to_wire().may_cancel);
    assert_eq!(late.cancel(), Err(Error::NotCancellable));
    go.send(()).unwrap();
    late.wait(None).await;
    assert_eq!(late.status(), Status::Success);
    // Cancelled before it could say so: nothing behind it runs.
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    let early = operations.task(spec(true), async move |handle| {
        let _ = gone.await;
        handle.forbid_cancel().await;
        Err::<(), _>("it went on")
    });
    early.cancel().unwrap();
    let _ = go.send(());
    early.wait(None).await;
    assert_eq!(early.status(), Status::Cancelled);
}
