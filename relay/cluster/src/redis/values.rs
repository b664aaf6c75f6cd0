//! Values of the store, each operation one script: nobody sees half of it.

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::names::{Names, behind, places};
use super::resp::{Reply, command};
use super::text_of;
use crate::error::ClusterError;
use crate::key::{Key, Prefix};
use crate::store::{Entry, Revision};

const WRITE: &str = include_str!("write.lua");
const READ: &str = include_str!("read.lua");
const PAGE: &str = include_str!("page.lua");
const JOIN: &str = include_str!("join.lua");

/// Most keys of a page.
const PAGE_KEYS: usize = 256;

/// From so many bytes on a page ends; one value may go beyond.
pub(super) const PAGE_BYTES: usize = 1 << 20;

/// What the script answers when something else is there than what was expected.
const CONFLICT: i64 = -1;

/// What a change expects to be there.
#[derive(Debug, Clone, Copy)]
pub(super) enum Expected {
    Any,
    Nothing,
    Revision(Revision),
}

/// Puts commands on a connection; a clone uses the same one.
#[derive(Debug, Clone)]
pub(super) struct Commands(mpsc::Sender<Asked>);

/// A command that is to be sent, and who waits for the reply.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) command: Vec<u8>,
    pub(super) answer: oneshot::Sender<Reply>,
}

impl Commands {
    /// So many commands wait to be sent.
    pub(super) fn new(most: usize) -> (Self, mpsc::Receiver<Asked>) {
        let (sender, receiver) = mpsc::channel(most);
        (Self(sender), receiver)
    }

    async fn ask(&self, command: Vec<u8>) -> Result<Reply, ClusterError> {
        let (answer, reply) = oneshot::channel();
        let asked = Asked { command, answer };
        let lost = || ClusterError::Unreachable("the connection was lost".to_owned());
        self.0.send(asked).await.map_err(|_lost| lost())?;
        // it may have been sent, so the change may have been made
        let reply = reply.await.map_err(|_lost| ClusterError::TimedOut)?;
        reply.accepted().map_err(|text| refused(&text))
    }

    pub(super) async fn get(
        &self,
        names: &Names,
        key: &Key,
    ) -> Result<Option<Entry>, ClusterError> {
        let keys = [&*names.values, &names.revisions];
        let found = self.ask(run(READ, &keys, &[key.as_str().as_bytes()]));
        let found = found.await?;
        if found == Reply::Nothing {
            return Ok(None);
        }
        let Reply::List(found) = &found else {
            return Err(strange(&found));
        };
        entry(key.clone(), found).map(Some)
    }

    /// Puts a value, or takes it away if none is given. None is answered if there was nothing to take away.
    pub(super) async fn write(
        &self,
        names: &Names,
        key: &Key,
        value: Option<&Bytes>,
        expected: Expected,
    ) -> Result<Option<Revision>, ClusterError> {
        let expected = match expected {
            Expected::Any => "any".to_owned(),
            Expected::Nothing => "none".to_owned(),
            Expected::Revision(revision) => revision.get().to_string(),
        };
        let (keys, channel) = (all(names), names.change(key));
        let arguments = [key.as_str(), &expected, &channel].map(str::as_bytes);
        let value = value.map(Bytes::as_ref);
        let arguments: Vec<_> = arguments.into_iter().chain(value).collect();
        let answered = self.ask(run(WRITE, &keys, &arguments)).await?;
        let Reply::Number(number) = answered else {
            return Err(strange(&answered));
        };
        if number == CONFLICT {
            return Err(ClusterError::Conflict(key.clone()));
        }
        Ok(u64::try_from(number).ok().and_then(Revision::new))
    }

    /// All that is there, in order, and the number of the last change that it surely shows.
    pub(super) async fn list(
        &self,
        names: &Names,
        prefix: &Prefix,
    ) -> Result<(Vec<Entry>, u64), ClusterError> {
        let (mut from, to) = places(prefix);
        let (mut entries, mut shown) = (Vec::new(), None);
        loop {
            let page = self.page(names, &from, &to).await?;
            let shown = *shown.get_or_insert(page.last);
            entries.extend(page.entries);
            match entries.last() {
                Some(Entry { key, .. }) if page.more => from = behind(key),
                _ => return Ok((entries, shown)),
            }
        }
    }

    async fn page(&self, names: &Names, from: &str, to: &str) -> Result<Page, ClusterError> {
        let (keys, bytes) = (PAGE_KEYS.to_string(), PAGE_BYTES.to_string());
        let arguments = [from, to, &keys, &bytes].map(str::as_bytes);
        let found = self.ask(run(PAGE, &all(names), &arguments)).await?;
        let Reply::List(found) = &found else {
            return Err(strange(&found));
        };
        let [last, Reply::Number(more), rest @ ..] = found.as_slice() else {
            return Err(broken("a page without its number"));
        };
        let entries = rest.chunks(3).map(|entry_of| match entry_of {
            [key, rest @ ..] => entry(key_of(key)?, rest),
            [] => Err(broken("an empty place in a page")),
        });
        Ok(Page {
            last: number(last).ok_or_else(|| broken("a page without its number"))?,
            more: *more != 0,
            entries: entries.collect::<Result<_, _>>()?,
        })
    }

    /// Tells it to those who listen, and how many those are.
    pub(super) async fn publish(&self, channel: &str, payload: &[u8]) -> Result<i64, ClusterError> {
        let publish = command(&[b"PUBLISH", channel.as_bytes(), payload]);
        let answered = self.ask(publish).await?;
        let Reply::Number(heard) = answered else {
            return Err(strange(&answered));
        };
        Ok(heard)
    }
}

/// Some of the values.
struct Page {
    last: u64,
    more: bool,
    entries: Vec<Entry>,
}

/// The command that says which store this is, and makes it one: `fresh` if it is none. If `trying`, it shows as well
/// whether changes may be told.
pub(super) fn join(names: &Names, fresh: &str, trying: bool) -> Vec<u8> {
    let channel = trying.then(|| names.no_change().as_bytes());
    let arguments: Vec<_> = [fresh.as_bytes()].into_iter().chain(channel).collect();
    run(JOIN, &[&names.store], &arguments)
}

/// The command that shows whether the values are what they are to be.
pub(super) fn look(names: &Names) -> Vec<u8> {
    run(PAGE, &all(names), &[b"-", b"+", b"1", b"1"])
}

fn all(names: &Names) -> [&str; 4] {
    [&names.values, &names.revisions, &names.index, &names.last]
}

fn run(script: &str, keys: &[&str], arguments: &[&[u8]]) -> Vec<u8> {
    let count = keys.len().to_string();
    let words = ["EVAL", script, &count];
    let words = words.into_iter().chain(keys.iter().copied());
    let words: Vec<_> = words
        .map(str::as_bytes)
        .chain(arguments.iter().copied())
        .collect();
    command(&words)
}

fn key_of(reply: &Reply) -> Result<Key, ClusterError> {
    let Reply::Bytes(bytes) = reply else {
        return Err(strange(reply));
    };
    let text = std::str::from_utf8(bytes).ok();
    let key = text.and_then(|text| text.parse().ok());
    key.ok_or_else(|| broken("a key that no relay has written"))
}

fn entry(key: Key, found: &[Reply]) -> Result<Entry, ClusterError> {
    let [revision, Reply::Bytes(value)] = found else {
        return Err(broken("a key without its value"));
    };
    let revision = number(revision).and_then(Revision::new);
    Ok(Entry {
        key,
        value: value.clone(),
        revision: revision.ok_or_else(|| broken("a value without its number"))?,
    })
}

fn number(reply: &Reply) -> Option<u64> {
    match reply {
        Reply::Bytes(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        Reply::Number(number) => u64::try_from(*number).ok(),
        Reply::Status(_) | Reply::Error(_) | Reply::Nothing | Reply::List(_) => None,
    }
}

/// Nothing was changed. Whether a refusal passes cannot be told, so it is taken to, if it is not about rights or what is
/// kept.
fn refused(text: &str) -> ClusterError {
    let said = text_of(text);
    let of_rights = ["NOPERM", "The user executing the script can't"];
    if of_rights.iter().any(|words| text.contains(words)) {
        ClusterError::Denied(said)
    } else if text.contains("WRONGTYPE") {
        ClusterError::Broken(said)
    } else {
        ClusterError::Unreachable(said)
    }
}

fn strange(reply: &Reply) -> ClusterError {
    let kind = match reply {
        Reply::Status(_) => "a status",
        Reply::Error(_) => "an error",
        Reply::Number(_) => "a number",
        Reply::Bytes(_) => "bytes",
        Reply::Nothing => "nothing",
        Reply::List(_) => "a list",
    };
    broken(&format!("the server answered with {kind}"))
}

fn broken(text: &str) -> ClusterError {
    ClusterError::Broken(text.to_owned())
}
