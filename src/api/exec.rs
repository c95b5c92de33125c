//! `POST /1.0/instances/<name>/exec`, and the websockets of a command.
//!
//! Bytes travel in binary messages; an empty text message marks the end of a stream. What a command wrote before it
//! ended is sent before the operation ends; what a child of it still holds open is not waited for.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Map, json};
use tokio::io::AsyncWriteExt;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};
use tungstenite::Message;

use super::app::App;
use super::call::Call;
use super::error::Error;
use super::response::{self, Response};
use super::wire;
use crate::instance::{self, Exec, ExecSpec, Io, IoKind, LogName};
use crate::names::InstanceKey;
use crate::ops::{Handle, Spec, WebSocket};
use crate::sys::pty;

/// A client gets this long to connect its websockets.
const CONNECT: Duration = Duration::from_secs(30);
/// Output is read in pieces of this size.
const PIECE: usize = 32 * 1024;

/// `POST /1.0/instances/<name>/exec`.
pub async fn start(mut call: Call) -> Result<Response, Error> {
    let body: wire::ExecPost = call.json().await?;
    let key = call.instance_key()?;
    if !call.app.db.model().instances.contains_key(&key) {
        return Err(Error::NotFound("Instance"));
    }
    if body.command.first().is_none_or(String::is_empty) {
        return Err(Error::Instance(instance::Error::EmptyCommand));
    }
    let status = call.app.instances.snapshot(&key).status;
    if status != instance::Status::Running {
        return Err(Error::Instance(instance::Error::NotUp { status }));
    }
    // With websockets the client gets the output itself; recording it is not what it then asks for.
    let (io, fds): (IoKind, &[&str]) = match (body.wait_for_websocket, body.interactive) {
        (false, _) if body.record_output => (IoKind::Recorded, &[]),
        (false, _) => (IoKind::Null, &[]),
        (true, true) => (IoKind::Pty(body.width, body.height), &["0", "control"]),
        (true, false) => (IoKind::Pipes, &["0", "1", "2", "control"]),
    };
    let spec = ExecSpec {
        command: body.command.clone(),
        environment: body.environment,
        cwd: body.cwd,
        user: body.user,
        group: body.group,
        io,
    };
    let url = format!("/1.0/instances/{}", key.name);
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
        metadata: Some(told),
        requestor: Some(call.requestor()),
        may_cancel: false,
    };
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
    call.lifecycle("instance-exec", &url);
    Ok(response::accepted(&operation))
}

fn tell(handle: &Handle, status: i32) {
    handle.set_metadata([("return".to_owned(), status.into())].into_iter().collect());
}

/// A command without websockets: its output is dropped or kept as log files.
async fn unattended(app: &App, key: &InstanceKey, spec: ExecSpec, handle: &Handle) -> Result<(), instance::Error> {
    let mut exec = app.instances.exec(key, spec).await?;
    let exit = exec.attached.wait().await?;
    let mut told = Map::from_iter([("return".to_owned(), exit.status().into())]);
    if let Io::Recorded([stdout, stderr]) = &exec.io {
        let url = |name: &LogName| format!("/1.0/instances/{}/logs/{}", key.name, name.as_str());
        told.insert("output".to_owned(), json!({"1": url(stdout), "2": url(stderr)}));
    }
    handle.set_metadata(told);
    Ok(())
}

type Sink = SplitSink<WebSocket, Message>;
type Stream = SplitStream<WebSocket>;

async fn serve(app: &App, key: &InstanceKey, spec: ExecSpec, mut handle: Handle) -> Result<(), instance::Error> {
    let control = handle.socket("control");
    let mut sockets = Vec::new();
    for name in ["0", "1", "2"] {
        let Some(socket) = handle.socket(name) else { continue };
        match tokio::time::timeout(CONNECT, socket).await {
            Ok(Ok(socket)) => sockets.push(socket),
            Ok(Err(_)) | Err(_) => return Err(instance::Error::NoConnection),
        }
    }
    let interactive = matches!(spec.io, IoKind::Pty(..));
    let Exec { mut attached, io } = app.instances.exec(key, spec).await?;
    let (ended, _) = watch::channel(false);
    let (signals, mut signal_queue) = mpsc::unbounded_channel();
    let ptx = match &io {
        Io::Pty(ptx) => Some(Arc::clone(ptx)),
        Io::Pipes(..) | Io::Recorded(_) | Io::Null => None,
    };
    let control_task = tokio::spawn(async move {
        if let Some(control) = control
            && let Ok(socket) = control.await
        {
            serve_control(socket, ptx, interactive, signals).await;
        }
    });
    let mut outputs = Vec::new();
    let mut inputs = Vec::new();
    let mut sockets = sockets.into_iter();
    match io {
        Io::Pipes(stdin, stdout, stderr) => {
            if let (Some(zero), Some(one), Some(two)) = (sockets.next(), sockets.next(), sockets.next()) {
                let (sink, stream) = zero.split();
                inputs.push(tokio::spawn(async move {
                    input_to_pipe(stream, stdin).await;
                    drop(sink);
                }));
                for (socket, pipe) in [(one, stdout), (two, stderr)] {
                    outputs.push(tokio::spawn(output_of_pipe(pipe, socket, ended.subscribe())));
                }
            }
        }
        Io::Pty(ptx) => {
            if let Some(zero) = sockets.next() {
                let (sink, stream) = zero.split();
                let (other, hung_up) = (Arc::clone(&ptx), ended.subscribe());
                inputs.push(tokio::spawn(async move { input_to_pty(stream, &other).await }));
                outputs.push(tokio::spawn(async move { output_of_pty(&ptx, sink, hung_up).await }));
            }
        }
        Io::Recorded(_) | Io::Null => {}
    }
    // Closed when the control task ends; then only the command's own end is waited for.
    let mut listening = true;
    let exit = loop {
        tokio::select! {
            exit = attached.wait() => break exit,
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
    inputs.iter().for_each(tokio::task::JoinHandle::abort);
    control_task.abort();
    tell(&handle, exit?.status());
    Ok(())
}

/// Passes resizes and signals on. A client that vanishes from an interactive command has it killed.
async fn serve_control(
    mut socket: WebSocket,
    ptx: Option<Arc<AsyncFd<OwnedFd>>>,
    interactive: bool,
    signals: mpsc::UnboundedSender<i32>,
) {
    loop {
        let text = match socket.next().await {
            Some(Ok(Message::Text(text))) => text.to_string(),
            Some(Ok(Message::Binary(bytes))) => String::from_utf8_lossy(&bytes).into_owned(),
            Some(Ok(Message::Close(_))) => return,
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
            Some(Err(_)) | None => {
                if interactive {
                    // The command may be over already.
                    let _ = signals.send(libc::SIGKILL);
                }
                return;
            }
        };
        let Ok(control) = serde_json::from_str::<wire::ExecControl>(&text) else { continue };
        let number = |name: &str| control.args.get(name).and_then(|text| text.parse::<u16>().ok());
        match (control.command.as_str(), number("width"), number("height"), &ptx) {
            ("window-resize", Some(columns), Some(rows), Some(ptx)) => {
                if let Err(error) = pty::resize(ptx.get_ref(), columns, rows) {
                    tracing::debug!(%error, "resizing a terminal");
                }
            }
            ("signal", ..) if (1..=64).contains(&control.signal) => {
                let _ = signals.send(control.signal);
            }
            (command, ..) => tracing::debug!(command, "a control message of exec makes no sense"),
        }
    }
}

/// The next bytes from a client; `None` at the end of its stream.
async fn next_input(stream: &mut Stream) -> Option<Bytes> {
    loop {
        match stream.next().await {
            Some(Ok(Message::Binary(bytes))) => return Some(bytes),
            Some(Ok(Message::Text(text))) if text.is_empty() => return None,
            Some(Ok(Message::Text(text))) => return Some(Bytes::from(text.to_string())),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
        }
    }
}

async fn input_to_pipe(mut stream: Stream, mut stdin: pipe::Sender) {
    while let Some(bytes) = next_input(&mut stream).await {
        if stdin.write_all(&bytes).await.is_err() {
            break;
        }
    }
    // The command sees the end of its input; the client's close is still read, so that it is answered.
    drop(stdin);
    while let Some(Ok(_)) = stream.next().await {}
}

/// Sends what comes, then the end mark, then closes.
async fn finish(mut socket: impl SinkExt<Message, Error = tungstenite::Error> + Unpin) {
    // A client that is gone does not care.
    let _ = socket.send(Message::text("")).await;
    let _ = socket.send(Message::Close(None)).await;
    let _ = socket.close().await;
}

async fn output_of_pipe(pipe: pipe::Receiver, mut socket: WebSocket, mut ended: watch::Receiver<bool>) {
    let mut buffer = vec![0; PIECE];
    loop {
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
                if socket.send(Message::binary(buffer[..count].to_vec())).await.is_err() {
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
                    message = socket.next() => if !matches!(message, Some(Ok(_))) {
                        return;
                    },
                }
            }
            Err(_) => break,
        }
    }
    finish(socket).await;
}

async fn input_to_pty(mut stream: Stream, ptx: &AsyncFd<OwnedFd>) {
    while let Some(bytes) = next_input(&mut stream).await {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let written = ptx.async_io(tokio::io::Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, rest)?)).await;
            match written {
                Ok(count) => rest = &rest[count..],
                Err(_) => return,
            }
        }
    }
}

async fn output_of_pty(ptx: &AsyncFd<OwnedFd>, mut sink: Sink, mut ended: watch::Receiver<bool>) {
    let mut buffer = vec![0; PIECE];
    loop {
        let over = *ended.borrow_and_update();
        match rustix::io::read(ptx.get_ref(), &mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                if sink.send(Message::binary(buffer[..count].to_vec())).await.is_err() {
                    return;
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
                }
            }
            // EIO: nobody has the other end open any more.
            Err(_) => break,
        }
    }
    finish(sink).await;
}
