//! The fields of an event or a span as they are shown.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};

use crate::escape::{Bounded, FIELD};

/// One field: harmless text of at most [`FIELD`] bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) name: &'static str,
    pub(super) text: String,
    /// Whether the text is a number or a truth value of JSON as it stands.
    pub(super) is_literal: bool,
}

/// Fields in the order in which they were first recorded; a later value replaces an earlier one.
#[derive(Debug, Default)]
pub(super) struct Fields(pub(super) Vec<Shown>);

impl Fields {
    fn set(&mut self, field: &Field, text: String, is_literal: bool) {
        let shown = Shown {
            name: field.name(),
            text,
            is_literal,
        };
        match self.0.iter_mut().find(|other| other.name == shown.name) {
            Some(other) => *other = shown,
            None => self.0.push(shown),
        }
    }

    fn set_text(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let mut text = String::new();
        let mut bounded = Bounded::new(&mut text, FIELD);
        let written = bounded.write_fmt(value).and_then(|()| bounded.finish());
        if written.is_err() {
            "(cannot be shown)".clone_into(&mut text);
        }
        self.set(field, text, false);
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value.to_string(), value.is_finite());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value.to_string(), true);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value.to_string(), true);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value.to_string(), true);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set_text(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set_text(field, format_args!("{value:?}"));
    }
}
