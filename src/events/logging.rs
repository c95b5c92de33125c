//! The daemon's log: to stderr and a file at a level that can be changed, and as events.

use std::fmt;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, reload};

use super::{About, Bus, Kind};

/// Publishes each log line as a `logging` event: `{message, level, context}`.
struct LogLayer {
    bus: Bus,
}

impl LogLayer {
    fn new(bus: Bus) -> Self {
        Self { bus }
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    context: Map<String, Value>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.context.insert(field.name().to_owned(), Value::String(text));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.context.insert(field.name().to_owned(), Value::String(value.to_owned()));
        }
    }
}

/// How much is logged: to stderr and the log file. Events of type `logging` carry all of it always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the levels")]
pub enum LogLevel {
    Error,
    Warning,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// All of them, as they are written.
    pub const WORDS: &'static str = "error, warning, info, debug or trace";

    /// From its word, in any case.
    pub fn parse(word: &str) -> Option<Self> {
        match word.to_ascii_lowercase().as_str() {
            "error" => Some(Self::Error),
            "warn" | "warning" => Some(Self::Warning),
            "info" => Some(Self::Info),
            "debug" => Some(Self::Debug),
            "trace" => Some(Self::Trace),
            _ => None,
        }
    }

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }

    fn filter(self) -> LevelFilter {
        match self {
            Self::Error => LevelFilter::ERROR,
            Self::Warning => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}

/// The running log, whose level can be changed.
pub struct Log {
    level: Mutex<LogLevel>,
    filter: reload::Handle<LevelFilter, Registry>,
}

impl Log {
    /// Starts logging for the whole program: to stderr, to `file` as well, and as events on `bus`.
    ///
    /// # Errors
    /// When the program logs already.
    pub fn start(level: LogLevel, file: Option<File>, bus: Bus) -> Result<Self, TryInitError> {
        let (filter, handle) = reload::Layer::new(level.filter());
        let file = file.map(|file| fmt_layer().with_writer(Arc::new(file)));
        let written = fmt_layer().with_writer(std::io::stderr).and_then(file).with_filter(filter);
        let events = LogLayer::new(bus).with_filter(LevelFilter::DEBUG);
        tracing_subscriber::registry().with(written).with(events).try_init()?;
        Ok(Self { level: Mutex::new(level), filter: handle })
    }

    /// The level now.
    pub fn level(&self) -> LogLevel {
        *self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes it, until the daemon ends.
    pub fn set_level(&self, level: LogLevel) {
        let mut current = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        // The subscriber lives as long as the program.
        if self.filter.reload(level.filter()).is_ok() {
            *current = level;
        }
    }
}

fn fmt_layer<S>() -> tracing_subscriber::fmt::Layer<S> {
    tracing_subscriber::fmt::layer().with_ansi(false)
}

/// The words LXD uses for levels (those of the Go library logrus).
fn level_word(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if !self.bus.logging_wanted() {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = level_word(*event.metadata().level());
        self.bus.publish(
            Kind::Logging,
            About::SERVER,
            json!({"message": fields.message, "level": level, "context": fields.context}),
        );
    }
}
