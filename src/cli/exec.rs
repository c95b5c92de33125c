//! `warren exec` and `warren shell`.

use std::io::IsTerminal;

use clap::Args;
use futures_util::{SinkExt, StreamExt};
use http::Method;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use tungstenite::Message;

use super::Error;
use super::connection::{Connection, Socket};
use crate::api::wire::{Config, ExecPost};

/// A command to run.
#[derive(Debug, Args)]
pub(super) struct Exec {
    /// The instance
    instance: String,
    /// Program and arguments, after --
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
    /// Environment variable NAME=value
    #[arg(long = "env")]
    env: Vec<String>,
    /// Working directory
    #[arg(long, default_value = "")]
    cwd: String,
    /// User id
    #[arg(long, default_value_t = 0)]
    user: u32,
    /// Group id
    #[arg(long, default_value_t = 0)]
    group: u32,
    /// With a terminal
    #[arg(short = 't', long)]
    force_interactive: bool,
    /// Without a terminal
    #[arg(short = 'T', long, conflicts_with = "force_interactive")]
    force_noninteractive: bool,
}

impl Exec {
    /// A login shell.
    pub(super) fn shell(instance: String) -> Self {
        let script = "command -v bash >/dev/null && exec bash -l; exec sh -l";
        Self {
            instance,
            command: vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()],
            env: Vec::new(),
            cwd: String::new(),
            user: 0,
            group: 0,
            force_interactive: false,
            force_noninteractive: false,
        }
    }
}

/// The terminal in raw mode; put back as it was when dropped, whatever happens.
struct Raw {
    before: Termios,
}

impl Raw {
    fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing is left to be done when this fails.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

fn size() -> (u16, u16) {
    tcgetwinsize(std::io::stdout()).map_or((80, 24), |size| (size.ws_col, size.ws_row))
}

/// Runs the command and returns its exit status.
pub(super) async fn exec(connection: &Connection, exec: Exec) -> Result<u8, Error> {
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let interactive = exec.force_interactive || (terminal && !exec.force_noninteractive);
    let mut environment: Config = Config::new();
    for pair in &exec.env {
        let (name, value) = pair.split_once('=').ok_or_else(|| Error::Usage(format!("{pair:?} is not NAME=value")))?;
        environment.insert(name.to_owned(), value.to_owned());
    }
    if interactive && let Ok(term) = std::env::var("TERM") {
        environment.entry("TERM".to_owned()).or_insert(term);
    }
    let (width, height) = size();
    let post = ExecPost {
        command: exec.command,
        wait_for_websocket: true,
        interactive,
        environment,
        width,
        height,
        user: exec.user,
        group: exec.group,
        cwd: exec.cwd,
        ..ExecPost::default()
    };
    let body = serde_json::to_value(&post).map_err(|e| Error::Broken(e.to_string()))?;
    let path = format!("/1.0/instances/{}/exec", exec.instance);
    let answer = connection.request(Method::POST, &path, Some(&body)).await?;
    let open = async |name: &str| {
        let secret = answer.metadata["metadata"]["fds"][name].as_str().unwrap_or_default();
        connection.websocket(&format!("{}/websocket?secret={secret}", answer.operation)).await
    };
    let control = open("control").await?;
    let raw = if interactive { Raw::enter() } else { None };
    let control = tokio::spawn(steer(control, interactive));
    let input = open("0").await?;
    let outputs = if interactive {
        let (sink, stream) = input.split();
        tokio::spawn(feed(sink));
        vec![tokio::spawn(drain(stream, tokio::io::stdout()))]
    } else {
        let (one, two) = (open("1").await?, open("2").await?);
        let (sink, _) = input.split();
        tokio::spawn(feed(sink));
        vec![
            tokio::spawn(drain(one.split().1, tokio::io::stdout())),
            tokio::spawn(drain(two.split().1, tokio::io::stderr())),
        ]
    };
    // All output first: the operation's end may be known before its last bytes are printed.
    for output in outputs {
        let _ = output.await;
    }
    let operation = connection.get(&format!("{}/wait", answer.operation)).await;
    control.abort();
    drop(raw);
    let operation = operation?;
    let status = operation["metadata"]["return"].as_i64();
    if operation["status_code"] != 200 && status.is_none() {
        return Err(Error::Refused(operation["err"].as_str().unwrap_or_default().to_owned()));
    }
    if let Some(reason) = operation["err"].as_str().filter(|reason| !reason.is_empty()) {
        // Such as a command that does not exist.
        eprintln!("Error: {reason}");
    }
    Ok(u8::try_from(status.unwrap_or(1) & 0xff).unwrap_or(1))
}

type Sink = futures_util::stream::SplitSink<Socket, Message>;
type Stream = futures_util::stream::SplitStream<Socket>;

/// Sends what stdin gives, then its end.
async fn feed(mut sink: Sink) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 32 * 1024];
    while let Ok(count @ 1..) = stdin.read(&mut buffer).await {
        if sink.send(Message::binary(buffer[..count].to_vec())).await.is_err() {
            return;
        }
    }
    let _ = sink.send(Message::text("")).await;
    // The sink stays: dropping it would close a terminal's output as well.
    std::future::pending::<()>().await;
}

/// Prints what comes.
async fn drain(mut stream: Stream, mut out: impl tokio::io::AsyncWrite + Unpin) {
    while let Some(Ok(message)) = stream.next().await {
        match message {
            Message::Binary(bytes) => {
                if out.write_all(&bytes).await.is_err() || out.flush().await.is_err() {
                    return;
                }
            }
            Message::Text(_) | Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }
}

/// Passes on the size of the window and signals.
async fn steer(mut socket: Socket, interactive: bool) {
    let kinds = [SignalKind::window_change(), SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let [Ok(mut window), Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = kinds.map(signal) else { return };
    loop {
        let message: Value = tokio::select! {
            _ = window.recv(), if interactive => {
                let (width, height) = size();
                json!({"command": "window-resize", "args": {"width": width.to_string(), "height": height.to_string()}})
            }
            _ = interrupt.recv() => json!({"command": "signal", "signal": libc::SIGINT}),
            _ = terminate.recv() => json!({"command": "signal", "signal": libc::SIGTERM}),
            _ = hangup.recv() => json!({"command": "signal", "signal": libc::SIGHUP}),
            message = socket.next() => match message {
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return,
            },
        };
        if socket.send(Message::text(message.to_string())).await.is_err() {
            return;
        }
    }
}
