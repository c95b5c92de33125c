//! `warren exec` and `warren shell`.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use futures_util::{SinkExt, StreamExt};
use http::Method;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tungstenite::Message;

use super::client::Client;
use super::connection::{Socket, succeeded};
use super::{Error, output};
use crate::api::wire::{Config, ExecPost};

/// A command that a signal should end gets this long before its client leaves it to the daemon.
const GRACE: Duration = Duration::from_secs(1);
/// Ctrl-D.
const END_OF_INPUT: u8 = 4;

/// A command to run.
#[derive(Debug, Args)]
pub(super) struct Exec {
    /// The instance
    instance: String,
    /// Program and arguments, after --
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) command: Vec<String>,
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
    /// Nothing on stdin
    #[arg(short = 'n', long)]
    disable_stdin: bool,
    /// With a terminal
    #[arg(short = 't', long)]
    pub(super) force_interactive: bool,
    /// Without a terminal
    #[arg(short = 'T', long, conflicts_with = "force_interactive")]
    force_noninteractive: bool,
    /// auto, interactive or non-interactive
    #[arg(long, default_value = "auto")]
    mode: String,
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
            disable_stdin: false,
            force_interactive: false,
            force_noninteractive: false,
            mode: "auto".to_owned(),
        }
    }
}

/// The terminal in raw mode; put back as it was when dropped, whatever happens.
pub(super) struct Raw {
    before: Termios,
}

impl Raw {
    /// Enters it, where stdin is a terminal.
    pub(super) fn enter() -> Option<Self> {
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

/// Columns and rows of the terminal.
pub(super) fn size() -> (u16, u16) {
    let sizes = [tcgetwinsize(std::io::stdout()), tcgetwinsize(std::io::stdin())];
    let known = sizes.into_iter().flatten().map(|size| (size.ws_col, size.ws_row)).find(|size| *size != (0, 0));
    known.unwrap_or((80, 24))
}

/// Runs the command and returns its exit status.
pub(super) async fn exec(client: &Client, exec: Exec) -> Result<u8, Error> {
    let (connection, name) = client.named(&exec.instance)?;
    let path = format!("{}/exec", super::instance::path(&name)?);
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let interactive = match exec.mode.as_str() {
        "interactive" => true,
        "non-interactive" => false,
        "auto" => exec.force_interactive || (terminal && !exec.force_noninteractive),
        other => return Err(Error::Usage(format!("There is no mode {other:?}: auto, interactive, non-interactive"))),
    };
    let mut environment: Config = Config::new();
    for pair in &exec.env {
        // As with `lxc`, one without a value is empty.
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        environment.insert(name.to_owned(), value.to_owned());
    }
    if interactive && let Ok(term) = std::env::var("TERM") {
        environment.entry("TERM".to_owned()).or_insert(term);
    }
    // Heard from before the size is taken: no change of it is missed.
    let window = listen(SignalKind::window_change())?;
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
    let failed = |e: Error| e.doing(format!("Cannot run a command in {name}"));
    let answer = connection.request(Method::POST, &path, Some(&body)).await.map_err(|e| {
        let down = matches!(&e, Error::Refused(refusal) if refusal.reason.contains("is not running"));
        let e = failed(e);
        if down { e.hint(format!("\"warren start {name}\" lets it run")) } else { e }
    })?;
    let open = async |name: &str| {
        let secret = answer.metadata["metadata"]["fds"][name].as_str().unwrap_or_default();
        connection.websocket(&format!("{}/websocket?secret={secret}", answer.operation)).await
    };
    let control = open("control").await?;
    // Heard from before the terminal is changed: no signal ends us without putting it back.
    let signals = Signals::listen()?;
    let _raw = if interactive { Raw::enter() } else { None };
    let work = async {
        let input = open("0").await?;
        let outputs = if interactive {
            let (sink, stream) = input.split();
            tokio::spawn(feed(sink, exec.disable_stdin, true));
            vec![tokio::spawn(drain(stream, tokio::io::stdout()))]
        } else {
            let (one, two) = (open("1").await?, open("2").await?);
            let (sink, _) = input.split();
            tokio::spawn(feed(sink, exec.disable_stdin, false));
            vec![
                tokio::spawn(drain(one.split().1, tokio::io::stdout())),
                tokio::spawn(drain(two.split().1, tokio::io::stderr())),
            ]
        };
        // All output first: the operation's end may be known before its last bytes are printed.
        let mut printed = Ok(());
        for output in outputs {
            match output.await {
                // Nobody sees this terminal any more. The daemon ends what runs in it when we are gone.
                Ok(Err(error)) if interactive => return output::written(Err(error)).map(|()| 128 + libc::SIGPIPE),
                Ok(Err(error)) => printed = printed.and(output::written(Err(error))),
                Ok(Ok(())) | Err(_) => {}
            }
        }
        let operation = connection.ended(&answer.operation).await.map_err(failed)?;
        printed?;
        let status = operation.metadata.as_ref().and_then(|told| told.get("return")?.as_i64());
        if status.is_none() {
            // Nothing ran: the operation's own failure is the answer.
            succeeded(&operation).map_err(failed)?;
        } else if !operation.err.is_empty() {
            // Such as a command that does not exist.
            output::complain(&failed(Error::refused(operation.err.clone())));
        }
        Ok(status.and_then(|status| i32::try_from(status).ok()).unwrap_or(1))
    };
    let status = tokio::select! {
        status = work => status?,
        signal = steer(control, window, signals, interactive) => 128 + signal,
    };
    Ok(u8::try_from(status & 0xff).unwrap_or(1))
}

type Sink = futures_util::stream::SplitSink<Socket, Message>;
type Stream = futures_util::stream::SplitStream<Socket>;

/// Sends what stdin gives, then its end.
async fn feed(mut sink: Sink, nothing: bool, interactive: bool) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 32 * 1024];
    while !nothing && let Ok(count @ 1..) = stdin.read(&mut buffer).await {
        if sink.send(Message::binary(buffer[..count].to_vec())).await.is_err() {
            return;
        }
    }
    // What a terminal's user would type at the end.
    let end = if interactive { Message::binary(vec![END_OF_INPUT]) } else { Message::text("") };
    let _ = sink.send(end).await;
    // The sink stays: dropping it would close a terminal's output as well.
    std::future::pending::<()>().await;
}

/// Prints what comes; fails when it cannot be printed.
async fn drain(mut stream: Stream, mut out: impl tokio::io::AsyncWrite + Unpin) -> std::io::Result<()> {
    while let Some(Ok(message)) = stream.next().await {
        match message {
            Message::Binary(bytes) => {
                out.write_all(&bytes).await?;
                out.flush().await?;
            }
            Message::Text(_) | Message::Close(_) => break,
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }
    Ok(())
}

fn listen(kind: SignalKind) -> Result<Signal, Error> {
    signal(kind).map_err(|error| Error::Local { doing: "wait for signals".to_owned(), error })
}

/// The signals that are passed on.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Error> {
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            quit: listen(SignalKind::quit())?,
        })
    }

    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => libc::SIGINT,
            _ = self.terminate.recv() => libc::SIGTERM,
            _ = self.hangup.recv() => libc::SIGHUP,
            _ = self.quit.recv() => libc::SIGQUIT,
        }
    }
}

/// Passes on the size of the window and signals. Ends with the signal that shall end this client.
///
/// A terminal in raw mode makes no signals: one that comes all the same means this client. The command gets the same
/// signal and a moment to end by it. With pipes the signal means the command, which may take its time.
async fn steer(mut socket: Socket, mut window: Signal, mut signals: Signals, interactive: bool) -> i32 {
    let mut open = true;
    loop {
        let (message, ending): (Value, Option<i32>) = tokio::select! {
            _ = window.recv(), if interactive => {
                let (width, height) = size();
                let args = json!({"width": width.to_string(), "height": height.to_string()});
                (json!({"command": "window-resize", "args": args}), None)
            }
            number = signals.next() => (json!({"command": "signal", "signal": number}), Some(number)),
            message = socket.next(), if open => {
                // What else has happened is told by the outputs and the operation.
                open = matches!(message, Some(Ok(_)));
                continue;
            }
        };
        let sent = open && socket.send(Message::text(message.to_string())).await.is_ok();
        if let Some(number) = ending.filter(|_| interactive || !sent) {
            if sent {
                tokio::time::sleep(GRACE).await;
            }
            return number;
        }
    }
}
