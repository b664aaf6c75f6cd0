//! What a script threw, in words for the one who reads them.

use rquickjs::{Coerced, Ctx, Error, Exception, Value};

use super::clock::Clock;
use crate::protocol::{Wrong, WrongKind};

/// Most bytes of a message.
const LONGEST: usize = 4 << 10;

/// The engine's own words when the heap is full.
const OUT_OF_MEMORY: &str = "out of memory";

/// Something thrown.
pub(super) struct Thrown {
    pub(super) wrong: Wrong,
    /// The text could not be parsed.
    pub(super) is_syntax: bool,
    /// Where, for comparing two.
    line: u32,
}

/// What `error` was. Asking may run the script's own getters, which the clock watches too.
pub(super) fn of(ctx: &Ctx<'_>, clock: &Clock, error: &Error) -> Thrown {
    let thrown = if error.is_exception() {
        exception(ctx, ctx.catch())
    } else if matches!(error, Error::Allocation) {
        plain(Wrong::new(WrongKind::OutOfMemory, ""))
    } else {
        let what = format!("something that cannot be read: {error}");
        plain(Wrong::new(WrongKind::Unusable, what))
    };
    if clock.has_fired() {
        return plain(Wrong::new(WrongKind::TimedOut, ""));
    }
    thrown
}

/// Of two ways to read a text, the one that came further knows better what is wrong with it.
pub(super) fn further(one: Thrown, other: Thrown) -> Thrown {
    if other.is_syntax && one.line > other.line {
        one
    } else {
        other
    }
}

const fn plain(wrong: Wrong) -> Thrown {
    Thrown {
        wrong,
        is_syntax: false,
        line: 0,
    }
}

fn exception<'js>(ctx: &Ctx<'js>, value: Value<'js>) -> Thrown {
    let Some(exception) = value.clone().into_exception() else {
        return plain(Wrong::new(
            WrongKind::Threw,
            shortened(in_words(ctx, value)),
        ));
    };
    let name = text_of(ctx, &exception, "name").unwrap_or_default();
    let message = text_of(ctx, &exception, "message").unwrap_or_default();
    if name == "InternalError" && message == OUT_OF_MEMORY {
        return plain(Wrong::new(WrongKind::OutOfMemory, ""));
    }
    let place = text_of(ctx, &exception, "stack").and_then(|stack| place(&stack));
    let line = place.as_ref().map_or(0, |(_, line)| *line);
    // an Error is written for the user; the engine's kinds are for who wrote the script
    let words = match (name.as_str(), place) {
        ("Error" | "", _) => message,
        (_, None) => format!("{name}: {message}"),
        (_, Some((place, _))) => format!("{name}: {message} ({place})"),
    };
    Thrown {
        wrong: Wrong::new(WrongKind::Threw, shortened(words)),
        is_syntax: name == "SyntaxError",
        line,
    }
}

/// Something thrown that is no `Error`: text as it is, an object's `message`, else JSON.
fn in_words<'js>(ctx: &Ctx<'js>, value: Value<'js>) -> String {
    if let Some(object) = value.as_object()
        && let Ok(message) = object.get::<_, rquickjs::String<'js>>("message")
        && let Ok(message) = message.to_string()
    {
        return message;
    }
    drop(ctx.catch());
    if let Some(text) = value.as_string() {
        return text.to_string().unwrap_or_default();
    }
    match ctx.json_stringify(value) {
        Ok(Some(json)) => json.to_string().unwrap_or_default(),
        Ok(None) => "undefined".to_owned(),
        Err(_hidden) => {
            drop(ctx.catch());
            "something that cannot be shown".to_owned()
        }
    }
}

fn text_of<'js>(ctx: &Ctx<'js>, exception: &Exception<'js>, property: &str) -> Option<String> {
    let text = exception.as_object().get::<_, Coerced<String>>(property);
    if text.is_err() {
        drop(ctx.catch());
    }
    text.ok().map(|Coerced(text)| text)
}

/// `name:line:column` of the innermost frame, and its line.
fn place(stack: &str) -> Option<(String, u32)> {
    let frame = stack.lines().next()?.trim();
    let place = frame.strip_prefix("at ").unwrap_or(frame);
    let place = match place.rsplit_once('(') {
        Some((_function, place)) => place.trim_end_matches(')'),
        None => place,
    };
    let (upto_line, _column) = place.rsplit_once(':')?;
    let (_name, line) = upto_line.rsplit_once(':')?;
    Some((place.to_owned(), line.parse().ok()?))
}

fn shortened(mut text: String) -> String {
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST));
        text.push('…');
    }
    text
}
