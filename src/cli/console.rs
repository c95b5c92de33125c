//! `warren console`: the console of an instance, or its log.

use clap::Args;
use futures_util::{SinkExt, StreamExt};
use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use tungstenite::Message;

use super::client::Client;
use super::connection::{Answer, Connection};
use super::exec::{Raw, size};
use super::{Error, instance, output};

/// Ctrl-A, then q: leaves the console.
const PREFIX: u8 = 1;

/// Whose console.
#[derive(Debug, Args)]
pub(super) struct Console {
    /// The instance
    instance: String,
    /// Print what the console has shown
    #[arg(long)]
    show_log: bool,
    /// console
    #[arg(short = 't', long = "type", default_value = "console")]
    kind: String,
}

/// Runs it.
pub(super) async fn run(client: &Client, console: Console) -> Result<(), Error> {
    let (at, name) = client.named(&console.instance)?;
    if !console.show_log {
        return attach(&at, &name, &console.kind).await;
    }
    let path = format!("{}/console", instance::path(&name)?);
    let failed = |e: Error| e.doing(format!("Cannot read the console of {name}"));
    match at.ask(Method::GET, &path, None).await.map_err(failed)? {
        Answer::Other(bytes) => {
            output::print("\nConsole log:\n\n")?;
            output::log(&bytes)?;
            output::print("\n")
        }
        Answer::Json(envelope) => output::json(&format!("{}\n", envelope.metadata)),
    }
}

/// Attaches to the console until Ctrl-A q, or its end.
pub(super) async fn attach(at: &Connection, name: &str, kind: &str) -> Result<(), Error> {
    if kind != "console" {
        return Err(Error::Usage(format!("There is no console of type {kind:?}\nContainers have one of type console")));
    }
    let failed = |e: Error| e.doing(format!("Cannot attach to the console of {name}"));
    let (width, height) = size();
    let body = json!({"width": width, "height": height, "type": "console"});
    let path = format!("{}/console", instance::path(name)?);
    let answer = at.request(Method::POST, &path, Some(&body)).await.map_err(failed)?;
    let open = async |fd: &str| {
        let secret = answer.metadata["metadata"]["fds"][fd].as_str().unwrap_or_default().to_owned();
        at.websocket(&format!("{}/websocket?secret={secret}", answer.operation)).await
    };
    let mut control = open("control").await?;
    let (mut sink, mut stream) = open("0").await?.split();
    let wait = |error| Error::Local { doing: "wait for signals".to_owned(), error };
    let mut window = signal(SignalKind::window_change()).map_err(wait)?;
    output::print("To detach from the console, press: <ctrl>+a q\n")?;
    let raw = Raw::enter();
    let (mut stdin, mut stdout) = (tokio::io::stdin(), tokio::io::stdout());
    let (mut buffer, mut prefixed, mut input) = ([0; 4096], false, true);
    loop {
        tokio::select! {
            message = stream.next() => match message {
                Some(Ok(Message::Binary(bytes))) => {
                    let written = async { stdout.write_all(&bytes).await?; stdout.flush().await };
                    if written.await.is_err() {
                        break;
                    }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Text(_) | Message::Close(_)) | Err(_)) | None => break,
            },
            read = stdin.read(&mut buffer), if input => {
                let count = read.unwrap_or(0);
                input = count > 0;
                let (keys, leave) = typed(&buffer[..count], &mut prefixed);
                if !keys.is_empty() && sink.send(Message::binary(keys)).await.is_err() {
                    break;
                }
                if leave {
                    break;
                }
            }
            _ = window.recv() => {
                let (width, height) = size();
                let args = json!({"width": width.to_string(), "height": height.to_string()});
                let told = json!({"command": "window-resize", "args": args}).to_string();
                if control.send(Message::text(told)).await.is_err() {
                    break;
                }
            }
        }
    }
    drop(raw);
    // It may have gone first.
    let _ = sink.close().await;
    let _ = control.close(None).await;
    output::print("\r\n")
}

/// The keys that the console gets, and whether its user wants to leave it. Ctrl-A twice is one.
fn typed(keys: &[u8], prefixed: &mut bool) -> (Vec<u8>, bool) {
    let mut passed = Vec::new();
    for key in keys {
        if *prefixed {
            *prefixed = false;
            match key {
                b'q' => return (passed, true),
                &PREFIX => passed.push(PREFIX),
                other => passed.extend([PREFIX, *other]),
            }
        } else if *key == PREFIX {
            *prefixed = true;
        } else {
            passed.push(*key);
        }
    }
    (passed, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_a_q_leaves_whole_or_in_pieces() {
        let mut prefixed = false;
        assert_eq!(typed(b"ab\x01\x01\x01c", &mut prefixed), (b"ab\x01\x01c".to_vec(), false));
        assert_eq!(typed(b"x\x01", &mut prefixed), (b"x".to_vec(), false));
        assert_eq!(typed(b"qy", &mut prefixed), (Vec::new(), true));
    }
}
