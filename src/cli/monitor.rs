//! `warren monitor`: what happens on a server, as it happens.

use clap::{Args, ValueEnum};
use futures_util::StreamExt;
use serde_json::Value;
use tungstenite::Message;

use super::client::Client;
use super::object::text;
use super::{Error, output, yaml};

/// How events are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shape {
    Json,
    Pretty,
    Yaml,
}

/// Which events, and how.
#[derive(Debug, Args)]
pub(super) struct Monitor {
    /// [remote:]
    remote: Option<String>,
    /// Of all projects
    #[arg(long)]
    all_projects: bool,
    /// Format
    #[arg(short, long, value_enum, default_value_t = Shape::Yaml)]
    format: Shape,
    /// Least level of log messages (with --pretty)
    #[arg(long)]
    loglevel: Option<String>,
    /// Short for --format=pretty
    #[arg(long)]
    pretty: bool,
    /// logging, operation or lifecycle (repeat for more)
    #[arg(long = "type")]
    kinds: Vec<String>,
}

const LEVELS: &[&str] = &["trace", "debug", "info", "warning", "error", "fatal", "panic"];

fn level(name: &str) -> Option<usize> {
    let name = if name == "warn" { "warning" } else { name };
    LEVELS.iter().position(|known| *known == name)
}

/// Runs it until it is interrupted.
pub(super) async fn run(client: &Client, monitor: Monitor) -> Result<(), Error> {
    let at = client.remote(monitor.remote.as_deref())?;
    let shape = if monitor.pretty { Shape::Pretty } else { monitor.format };
    let least = match monitor.loglevel.as_deref() {
        None => 0,
        Some(_) if shape != Shape::Pretty => {
            return Err(Error::Usage("Log level filtering can only be used with pretty formatting".to_owned()));
        }
        Some(name) => {
            level(name).ok_or_else(|| Error::Usage(format!("There is no level {name:?}: {}", LEVELS.join(", "))))?
        }
    };
    let mut path = format!("/1.0/events?type={}", monitor.kinds.join(","));
    if monitor.kinds.is_empty() {
        path = "/1.0/events?x=".to_owned();
    }
    if monitor.all_projects {
        path.push_str("&all-projects=true");
    }
    // A websocket is not refused with words: somebody who may not listen is told so first.
    at.get("/1.0").await?;
    let mut socket = at.websocket(&path).await?;
    while let Some(message) = socket.next().await {
        let message = message.map_err(|e| Error::Lost(e.to_string()))?;
        let message = match message {
            Message::Text(message) => message,
            Message::Close(Some(why)) if !why.reason.is_empty() => {
                let why = Error::refused(output::harmless(why.reason.as_str()));
                return Err(why.doing("The server has ended the events".to_owned()));
            }
            _ => continue,
        };
        let event: Value = serde_json::from_str(&message).map_err(|e| Error::Broken(e.to_string()))?;
        match shape {
            Shape::Json => output::json(&format!("{event}\n"))?,
            Shape::Yaml => {
                output::print(&format!("{}\n\n", yaml::text(&event, &["location", "metadata", "timestamp", "type"])))?
            }
            Shape::Pretty => {
                if let Some(line) = pretty(&event, least) {
                    output::print(&output::harmless(&format!("{line}\n")))?;
                }
            }
        }
    }
    Err(Error::Lost("The server sends no more events".to_owned()))
}

/// A line for people, in the words that log files have.
fn pretty(event: &Value, least: usize) -> Option<String> {
    let metadata = &event["metadata"];
    let time = text(event, "timestamp");
    let time = time.split('.').next().map(|time| format!("{}Z", time.trim_end_matches('Z'))).unwrap_or_default();
    let quoted = |value: &str| {
        if value.contains([' ', '"', '=']) || value.is_empty() { format!("{value:?}") } else { value.to_owned() }
    };
    let (name, message, more) = match event["type"].as_str() {
        Some("logging") => {
            let name = text(metadata, "level");
            if level(&name).unwrap_or(least) < least {
                return None;
            }
            (name, text(metadata, "message"), metadata["context"].clone())
        }
        Some("lifecycle") => {
            let source = text(metadata, "source");
            let requestor = text(&metadata["requestor"], "username");
            let more = serde_json::json!({"action": text(metadata, "action"), "source": source, "requestor": requestor, "project": text(event, "project")});
            ("info".to_owned(), format!("Action: {}, Source: {source}", text(metadata, "action")), more)
        }
        _ => {
            let message = format!(
                "ID: {}, Class: {}, Description: {}",
                text(metadata, "id"),
                text(metadata, "class"),
                text(metadata, "description")
            );
            (
                "info".to_owned(),
                message,
                serde_json::json!({"Status": text(metadata, "status"), "Err": text(metadata, "err")}),
            )
        }
    };
    if level(&name).unwrap_or(least) < least {
        return None;
    }
    let more: String = more
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            format!(" {key}={}", quoted(&value))
        })
        .collect();
    Some(format!("time=\"{time}\" level={name} msg={}{more}", quoted(&message)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_people() {
        let event = serde_json::json!({
            "type": "logging", "timestamp": "2026-11-28T13:46:23.5Z",
            "metadata": {"level": "debug", "message": "an answer", "context": {"path": "/1.0"}},
        });
        assert_eq!(pretty(&event, 0).unwrap(), "time=\"2026-11-28T13:46:23Z\" level=debug msg=\"an answer\" path=/1.0");
        assert_eq!(pretty(&event, 2), None);
        assert_eq!((level("warn"), level("x")), (Some(3), None));
    }
}
