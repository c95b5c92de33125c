//! `POST /1.0/instances/<name>/exec`, and the websockets of a command.
//!
//! ```text
//!              pipes                                      terminal
//!   "0" ──> stdin    empty text or close: its end   "0" <─> the pty    client gone: hung up (SIGHUP), then killed
//!   "1" <── stdout   client gone: closed            "control" ──> its size, signals; lost: hung up
//!   "2" <── stderr
//!   "control" ──> signals; lost: killed
//! ```
//! Bytes travel in binary messages; an empty text message marks the end of a stream. What a command wrote before it
//! ended is sent before the operation ends; what a child of it still holds open is not waited for.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, json};
use tokio::io::AsyncWriteExt;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::app::App;
use super::call::Call;
use super::error::Error;
use super::response::{self, Response};
use super::{standing, wire};
use crate::instance::{self, Exec, ExecSpec, Io, IoKind, LogName};
use crate::names::InstanceKey;
use crate::ops::socket::{Close, Incoming, Input, Left, Outgoing};
use crate::ops::{Handle, Spec, WebSocket};
use crate::sys::process::Exit;
use crate::sys::pty;

/// A command on a terminal that goes on after its client is gone and the terminal hung up is killed after this long.
const GRACE: Duration = Duration::from_secs(10);
/// A client gets this long to connect its websockets.
pub(super) const CONNECT: Duration = Duration::from_secs(30);
/// Output is read in pieces of this size.
pub(super) const PIECE: usize = 32 * 1024;
/// What a pipe or a terminal can hold, at most: so much is read after the end of the command, in which a child of it may
/// go on writing for ever. Source: `/proc/sys/fs/pipe-max-size`.
const HELD: usize = 1024 * 1024;
/// A client gets this long to answer the close of a websocket.
const LINGER: Duration = Duration::from_secs(2);

/// Texts that become arguments of execve(2) end with a NUL, and so cannot hold one.
fn check_texts(body: &wire::ExecPost) -> Result<(), Error> {
    let environment = body.environment.iter().flat_map(|(name, value)| [name, value]);
    for (field, mut texts) in [
        ("command", Box::new(body.command.iter()) as Box<dyn Iterator<Item = &String>>),
        ("environment", Box::new(environment)),
        ("cwd", Box::new(std::iter::once(&body.cwd))),
    ] {
        if texts.any(|text| text.contains('\0')) {
            return Err(Error::Field { name: field, reason: "it contains a NUL character".to_owned() });
        }
    }
    Ok(())
}

/// `POST /1.0/instances/<name>/exec`.
pub async fn start(mut call: Call) -> Result<Response, Error> {
    let body: wire::ExecPost = call.json().await?;
    let key = call.instance_key()?;
    if !call.app.db.model().instances.contains_key(&key) {
        return Err(Error::NotFound("Instance"));
    }
    if body.command.is_empty() {
        return Err(Error::Instance(instance::Error::EmptyCommand));
    }
    check_texts(&body)?;
    // With websockets the client gets the output itself; recording it is not what it then asks for.
    let (io, fds): (IoKind, &[&str]) = match (body.wait_for_websocket, body.interactive) {
        (false, _) if body.record_output => (IoKind::Recorded, &[]),
        (false, _) => (IoKind::Null, &[]),
        (true, true) => (IoKind::Pty(body.width, body.height), &["0", "control"]),
        (true, false) => (IoKind::Pipes, &["0", "1", "2", "control"]),
    };
    let mut spec = ExecSpec {
        command: body.command.clone(),
        environment: body.environment,
        cwd: body.cwd,
        user: body.user,
        group: body.group,
        io,
    };
    spec.environment = call.app.instances.exec_environment(&key, &spec).await?;
    let url = format!("/1.0/instances/{}", key.name);
    let command = serde_json::Value::from(body.command.clone());
    let told: Map<String, serde_json::Value> = [
        ("command".to_owned(), body.command.into()),
        ("interactive".to_owned(), body.interactive.into()),
        ("environment".to_owned(), serde_json::to_value(&spec.environment).unwrap_or_default()),
    ]
    .into_iter()
    .collect();
    let operation_spec = Spec {
        description: "Executing command",
        project: key.project.clone(),
        resources: [
            ("instances".to_owned(), vec![url.clone()]),
            ("containers".to_owned(), vec![url.replace("instances", "containers")]),
        ]
        .into(),
        // As with LXD, an operation without websockets tells nothing before its end.
        metadata: body.wait_for_websocket.then_some(told),
        requestor: Some(call.requestor()),
        may_cancel: false,
    };
    let owner = standing::check(&call, key.project.clone().into());
    let app = Arc::clone(&call.app);
    let operation = match io {
        IoKind::Null | IoKind::Recorded => {
            app.clone().ops.task(operation_spec, async move |handle| unattended(&app, &key, spec, &handle).await)
        }
        IoKind::Pipes | IoKind::Pty(..) => app
            .clone()
            .ops
            .websocket(operation_spec, fds, async move |handle| serve(&app, &key, spec, handle).await)
            .map_err(|_| Error::Random)?,
    };
    operation.bind(owner);
    call.lifecycle_with("instance-exec", &url, &[("command", command)]);
    Ok(response::accepted(&operation))
}

/// What the operation tells of a command that has ended, and how LXD calls it: by its exit status alone, it is taken for
/// one that could not be run.
fn outcome(exit: Exit) -> (i32, Result<(), instance::Error>) {
    let status = exit.status();
    let result = match status {
        126 => Err(instance::Error::CommandNotExecutable),
        127 => Err(instance::Error::CommandNotFound),
        _ => Ok(()),
    };
    (status, result)
}

/// A command without websockets: its output is dropped or kept as log files.
async fn unattended(app: &App, key: &InstanceKey, spec: ExecSpec, handle: &Handle) -> Result<(), instance::Error> {
    let mut exec = app.instances.exec(key, spec).await?;
    let (status, result) = outcome(exec.attached.wait().await?);
    let mut told = Map::from_iter([("return".to_owned(), status.into())]);
    if let Io::Recorded([stdout, stderr]) = &exec.io {
        let url = |name: &LogName| format!("/1.0/instances/{}/logs/{}", key.name, name.as_str());
        told.insert("output".to_owned(), json!({"1": url(stdout), "2": url(stderr)}));
    }
    handle.extend_metadata(told);
    result
}

/// The websockets of these names, in order, once all are connected. Those that are, are told why the others are not waited for.
pub(super) async fn connect(handle: &mut Handle, names: &[&str]) -> Result<Vec<WebSocket>, instance::Error> {
    let mut sockets = Vec::new();
    let all = async {
        for name in names {
            let Some(socket) = handle.socket(name) else { continue };
            sockets.push(socket.await.map_err(|_| match handle.is_abandoned() {
                true => instance::Error::ShuttingDown,
                false => instance::Error::NoConnection,
            })?);
        }
        Ok(())
    };
    match tokio::time::timeout(CONNECT, all).await.unwrap_or(Err(instance::Error::NoConnection)) {
        Ok(()) => {
            handle.has_its_sockets();
            Ok(sockets)
        }
        Err(error) => {
            let others = names.iter().filter_map(|name| handle.socket(name)?.try_recv().ok());
            sockets.extend(others.collect::<Vec<_>>());
            refuse(sockets, &error).await;
            Err(error)
        }
    }
}

/// Tells a client that waits for data why there will be none.
pub(super) async fn refuse(sockets: Vec<WebSocket>, error: &instance::Error) {
    let reason = error.to_string();
    futures_util::future::join_all(sockets.into_iter().map(|socket| socket.close(Close::Because(&reason)))).await;
}

async fn serve(app: &App, key: &InstanceKey, spec: ExecSpec, mut handle: Handle) -> Result<(), instance::Error> {
    let control = handle.socket("control");
    let sockets = connect(&mut handle, &["0", "1", "2"]).await?;
    let Exec { mut attached, io } = match app.instances.exec(key, spec).await {
        Ok(exec) => exec,
        Err(error) => {
            refuse(sockets, &error).await;
            return Err(error);
        }
    };
    let (ended, _) = watch::channel(false);
    // Of a terminal: true when the client is gone. Who holds the terminal lets go of it then, which hangs up.
    let hangup = Arc::new(watch::Sender::new(false));
    let (signals, mut signal_queue) = mpsc::unbounded_channel();
    let kind = match &io {
        Io::Pty(ptx) => Controlled::Terminal(Arc::downgrade(ptx), Arc::clone(&hangup)),
        Io::Pipes(..) | Io::Recorded(_) | Io::Null => Controlled::Pipes,
    };
    let over = ended.subscribe();
    let control_task = tokio::spawn(async move {
        if let Some(control) = control
            && let Ok(socket) = control.await
        {
            serve_control(socket, kind, signals, over).await;
        }
    });
    let mut outputs = Vec::new();
    let mut inputs = Vec::new();
    let mut sockets = sockets.into_iter();
    match io {
        Io::Pipes(stdin, stdout, stderr) => {
            if let (Some(zero), Some(one), Some(two)) = (sockets.next(), sockets.next(), sockets.next()) {
                inputs.push(tokio::spawn(input_to_pipe(zero, stdin)));
                for (socket, pipe) in [(one, stdout), (two, stderr)] {
                    outputs.push(tokio::spawn(output_of_pipe(pipe, socket, ended.subscribe())));
                }
            }
        }
        Io::Pty(ptx) => {
            if let Some(zero) = sockets.next() {
                let (outgoing, incoming) = zero.split();
                inputs.push(tokio::spawn(input_to_pty(incoming, Arc::clone(&ptx), Arc::clone(&hangup))));
                outputs.push(tokio::spawn(output_of_pty(ptx, outgoing, ended.subscribe(), hangup.subscribe())));
            }
        }
        Io::Recorded(_) | Io::Null => {}
    }
    // Closed when the control task ends; then only the command's own end is waited for.
    let mut listening = true;
    let mut hung_up = hangup.subscribe();
    let mut ignored = std::pin::pin!(async move {
        // The sender lives in `hangup`.
        let _ = hung_up.wait_for(|hung_up| *hung_up).await.map(drop);
        tokio::time::sleep(GRACE).await;
    });
    let exit = loop {
        tokio::select! {
            exit = attached.wait() => break exit,
            () = &mut ignored => {
                if let Err(error) = attached.signal(libc::SIGKILL).await {
                    tracing::debug!(%error, "killing a command that ignores its hang-up");
                }
                // Nobody can refuse that: only its end is waited for.
                break attached.wait().await;
            }
            signal = signal_queue.recv(), if listening => match signal {
                Some(number) => {
                    if let Err(error) = attached.signal(number).await {
                        tracing::debug!(%error, "passing a signal on");
                    }
                }
                None => listening = false,
            },
        }
    };
    ended.send_replace(true);
    for output in outputs {
        // Its panic was logged where it happened; the others' output still counts.
        let _ = output.await;
    }
    inputs.into_iter().for_each(linger);
    linger(control_task);
    let (status, result) = outcome(exit?);
    handle.extend_metadata(Map::from_iter([("return".to_owned(), status.into())]));
    result
}

/// The client may be closing its websocket just now; that is not waited for here.
pub(super) fn linger(task: JoinHandle<()>) {
    let abort = task.abort_handle();
    tokio::spawn(async move {
        if tokio::time::timeout(LINGER, task).await.is_err() {
            abort.abort();
        }
    });
}

/// What a control websocket steers.
enum Controlled {
    /// A terminal, which is hung up when those who read and write it let go of it, and how to have them do so.
    Terminal(Weak<AsyncFd<OwnedFd>>, Arc<watch::Sender<bool>>),
    /// A command that need not notice that its client has gone.
    Pipes,
}

/// Passes resizes and signals on. A client that vanishes from a terminal has it hung up; without one its command is
/// killed, as with LXD 5.0.2. One that closes the websocket lets it go on. `over`: the command has ended.
async fn serve_control(
    socket: WebSocket,
    controlled: Controlled,
    signals: mpsc::UnboundedSender<i32>,
    mut over: watch::Receiver<bool>,
) {
    let (outgoing, mut incoming) = socket.split();
    let left = loop {
        let next = tokio::select! {
            next = next_control(&mut incoming) => Some(next),
            _ = over.wait_for(|over| *over) => None,
        };
        let Some(next) = next else { return outgoing.close(Close::Normal).await };
        match next {
            Ok(Control::Resize(columns, rows)) => {
                if let Controlled::Terminal(ptx, _) = &controlled
                    && let Some(ptx) = ptx.upgrade()
                    && let Err(error) = pty::resize(ptx.get_ref(), columns, rows)
                {
                    tracing::debug!(%error, "resizing a terminal");
                }
            }
            Ok(Control::Signal(number)) => {
                // The command may be over already.
                let _ = signals.send(number);
            }
            Err(left) => break left,
        }
    };
    match (left, controlled) {
        (Left::Vanished, Controlled::Terminal(_, hangup)) => {
            hangup.send_replace(true);
        }
        (Left::Vanished, Controlled::Pipes) => {
            // It may be over already.
            let _ = signals.send(libc::SIGKILL);
        }
        (Left::Closed | Left::Shutdown, _) => {}
    }
}

/// What a control websocket asks for.
pub(super) enum Control {
    /// Columns and rows.
    Resize(u16, u16),
    /// Its number.
    Signal(i32),
}

/// The next message that makes sense.
///
/// # Errors
/// How the client left.
pub(super) async fn next_control(incoming: &mut Incoming) -> Result<Control, Left> {
    loop {
        let text = match incoming.next().await? {
            Input::Text(text) => text,
            Input::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        };
        let Ok(control) = serde_json::from_str::<wire::ExecControl>(&text) else {
            tracing::debug!("a control message is no JSON of one");
            continue;
        };
        let number = |name: &str| control.args.get(name).and_then(|text| text.parse::<u16>().ok());
        match (control.command.as_str(), number("width"), number("height")) {
            ("window-resize", Some(columns), Some(rows)) => return Ok(Control::Resize(columns, rows)),
            ("signal", ..) if (1..=64).contains(&control.signal) => return Ok(Control::Signal(control.signal)),
            (command, ..) => tracing::debug!(command, "a control message makes no sense"),
        }
    }
}

/// The next bytes from a client, `None` at the end mark.
///
/// # Errors
/// How the client left.
pub(super) async fn next_input(incoming: &mut Incoming) -> Result<Option<Bytes>, Left> {
    match incoming.next().await? {
        Input::Bytes(bytes) => Ok(Some(bytes)),
        Input::Text(text) if text.is_empty() => Ok(None),
        Input::Text(text) => Ok(Some(Bytes::from(text))),
    }
}

async fn input_to_pipe(socket: WebSocket, mut stdin: pipe::Sender) {
    let (outgoing, mut incoming) = socket.split();
    while let Ok(Some(bytes)) = next_input(&mut incoming).await {
        tokio::select! {
            written = stdin.write_all(&bytes) => if written.is_err() {
                break;
            },
            // A command that does not read must not hold up the end.
            () = outgoing.closing() => break,
        }
    }
    // The command sees the end of its input; the client's close is still read, so that it is answered.
    drop(stdin);
    incoming.ignore().await;
}

async fn output_of_pipe(pipe: pipe::Receiver, socket: WebSocket, mut ended: watch::Receiver<bool>) {
    let (mut outgoing, mut incoming) = socket.split();
    let mut buffer = vec![0; PIECE];
    let mut held = HELD;
    while held > 0 {
        let over = *ended.borrow_and_update();
        // At the end the pipe itself is asked: the runtime may not have heard yet that there is something in it.
        let read = if over {
            rustix::io::read(&pipe, &mut buffer).map_err(io::Error::from)
        } else {
            pipe.try_read(&mut buffer)
        };
        match read {
            Ok(0) => break,
            Ok(count) => {
                if over {
                    held = held.saturating_sub(count);
                }
                if outgoing.bytes(buffer[..count].to_vec()).await.is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // The command is over and all it wrote has been read: what a child holds open is not waited for.
                if over {
                    break;
                }
                tokio::select! {
                    _ = pipe.readable() => {}
                    _ = ended.changed() => {}
                    // Reading answers pings and sees the client go.
                    _ = incoming.ignore() => return,
                }
            }
            Err(_) => break,
        }
    }
    drop(pipe);
    outgoing.finish().await;
    linger(tokio::spawn(async move {
        incoming.ignore().await;
    }));
}

async fn input_to_pty(mut incoming: Incoming, ptx: Arc<AsyncFd<OwnedFd>>, hangup: Arc<watch::Sender<bool>>) {
    let mut hung_up = hangup.subscribe();
    let feed = async {
        while let Ok(bytes) = next_input(&mut incoming).await {
            // The end mark alone: the client takes output still.
            let Some(bytes) = bytes else { continue };
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let written = ptx.async_io(tokio::io::Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, rest)?)).await;
                match written {
                    Ok(count) => rest = &rest[count..],
                    // The command is over: only the client's close is waited for.
                    Err(_) => {
                        incoming.ignore().await;
                        return;
                    }
                }
            }
        }
    };
    tokio::select! {
        () = feed => {
            hangup.send_replace(true);
        }
        _ = hung_up.wait_for(|hung_up| *hung_up) => {}
    }
}

async fn output_of_pty(
    ptx: Arc<AsyncFd<OwnedFd>>,
    mut outgoing: Outgoing,
    mut ended: watch::Receiver<bool>,
    mut hangup: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; PIECE];
    let mut held = HELD;
    while held > 0 {
        let over = *ended.borrow_and_update();
        match rustix::io::read(ptx.get_ref(), &mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                if over {
                    held = held.saturating_sub(count);
                }
                tokio::select! {
                    sent = outgoing.bytes(buffer[..count].to_vec()) => if sent.is_err() {
                        return;
                    },
                    _ = hangup.wait_for(|hangup| *hangup) => break,
                }
            }
            Err(rustix::io::Errno::AGAIN) => {
                if over {
                    break;
                }
                tokio::select! {
                    ready = ptx.readable() => match ready {
                        Ok(mut guard) => guard.clear_ready(),
                        Err(_) => break,
                    },
                    _ = ended.changed() => {}
                    _ = hangup.wait_for(|hangup| *hangup) => break,
                }
            }
            // EIO: nobody has the other end open any more.
            Err(_) => break,
        }
    }
    // First: that hangs it up, if nobody else holds it.
    drop(ptx);
    if *hangup.borrow() { outgoing.leave().await } else { outgoing.finish().await }
}
