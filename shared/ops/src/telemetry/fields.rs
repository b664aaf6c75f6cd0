//! The fields of an event or a span as they are shown.

use std::fmt::{self, Write as _};
use std::ops::Range;

use tracing::field::{Field, Visit};

use crate::escape::{Bounded, FIELD};

/// Room for what a line of the access log says, so that it is allocated once.
const ROOM_OF_EVENT: usize = 384;
const FIELDS_OF_EVENT: usize = 24;

/// One field: harmless text of at most [`FIELD`] bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown<'a> {
    pub(super) name: &'static str,
    pub(super) text: &'a str,
    /// Whether the text is a number or a truth value of JSON as it stands.
    pub(super) is_literal: bool,
}

/// Fields in the order in which they were first recorded; a later value replaces an earlier one.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields {
    /// What all of them show, one behind the other.
    text: String,
    places: Vec<Place>,
}

#[derive(Debug, Clone)]
struct Place {
    name: &'static str,
    text: Range<usize>,
    is_literal: bool,
}

impl Fields {
    /// None yet, with room for those of an event.
    pub(super) fn of_event() -> Self {
        Self {
            text: String::with_capacity(ROOM_OF_EVENT),
            places: Vec::with_capacity(FIELDS_OF_EVENT),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Shown<'_>> {
        self.places.iter().map(|place| Shown {
            name: place.name,
            text: self.text.get(place.text.clone()).unwrap_or_default(),
            is_literal: place.is_literal,
        })
    }

    /// Bytes of all names and texts.
    pub(super) fn length(&self) -> usize {
        let names: usize = self.places.iter().map(|place| place.name.len()).sum();
        names + self.text.len()
    }

    fn set(&mut self, field: &Field, value: fmt::Arguments<'_>, is_literal: bool) {
        let name = field.name();
        match self.places.iter().position(|place| place.name == name) {
            Some(at) => self.replace(at, value, is_literal),
            None => self.append(name, value, is_literal),
        }
    }

    fn append(&mut self, name: &'static str, value: fmt::Arguments<'_>, is_literal: bool) {
        let start = self.text.len();
        let mut bounded = Bounded::new(&mut self.text, FIELD);
        let written = bounded.write_fmt(value).and_then(|()| bounded.finish());
        if written.is_err() {
            self.text.truncate(start);
            self.text.push_str("(cannot be shown)");
        }
        self.places.push(Place {
            name,
            text: start..self.text.len(),
            is_literal,
        });
    }

    /// Writes all of them anew, so that nothing is kept of what is no longer shown.
    fn replace(&mut self, replaced: usize, value: fmt::Arguments<'_>, is_literal: bool) {
        let mut anew = Self::default();
        for (at, old) in self.iter().enumerate() {
            if at == replaced {
                anew.append(old.name, value, is_literal);
            } else {
                let start = anew.text.len();
                anew.text.push_str(old.text);
                anew.places.push(Place {
                    name: old.name,
                    text: start..anew.text.len(),
                    is_literal: old.is_literal,
                });
            }
        }
        *self = anew;
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, format_args!("{value}"), value.is_finite());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, format_args!("{value}"), true);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, format_args!("{value}"), true);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, format_args!("{value}"), true);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, format_args!("{value}"), false);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, format_args!("{value:?}"), false);
    }
}
