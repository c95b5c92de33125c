//! The daemon's log as events: a layer of `tracing-subscriber`.

use std::fmt;

use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::{Bus, Kind};

/// Publishes each log line as a `logging` event: `{message, level, context}`.
pub struct LogLayer {
    bus: Bus,
}

impl LogLayer {
    /// A layer that feeds `bus`.
    pub fn new(bus: Bus) -> Self {
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
            None,
            json!({"message": fields.message, "level": level, "context": fields.context}),
        );
    }
}
