//! Values in a bucket: the last message of each subject. A deletion is a message too, until it is swept.

use std::collections::BTreeMap;
use std::error::Error as _;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{DeliverPolicy, ReplayPolicy, push};
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::{Info, StreamMessage};
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use async_nats::jetstream::{self, ErrorCode, Message};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};

use super::names::Names;
use super::session::Session;
use crate::error::ClusterError;
use crate::key::{Key, Prefix};
use crate::store::{Change, Entry, Revision};

/// Header that says what a message does, and its values: those of NATS's own key-value buckets.
const OPERATION: &str = "KV-Operation";
const DELETED: &str = "DEL";
const PURGED: &str = "PURGE";

/// Header that makes a write conditional on the number of the subject's last message.
const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";

/// Header that makes a write conditional on the number of the bucket's last message.
const EXPECTED_OF_ALL: &str = "Nats-Expected-Last-Sequence";

/// Values that are read at the same time.
const READS: usize = 16;

impl Session {
    /// The last message under a key: a value, or that it was taken away.
    async fn last(&self, names: &Names, key: &Key) -> Result<Option<StreamMessage>, ClusterError> {
        self.last_of(&names.value(key)).await
    }

    /// The last message under a subject, in which parts may stand for any.
    async fn last_of(&self, subject: &str) -> Result<Option<StreamMessage>, ClusterError> {
        match self.stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some(message)),
            Err(error) => match error.kind() {
                LastRawMessageErrorKind::NoMessageFound => Ok(None),
                LastRawMessageErrorKind::InvalidSubject
                | LastRawMessageErrorKind::JetStream(_)
                | LastRawMessageErrorKind::Other => Err(failed(&error)),
            },
        }
    }

    pub(super) async fn get(
        &self,
        names: &Names,
        key: &Key,
    ) -> Result<Option<Entry>, ClusterError> {
        let last = self.last(names, key).await?;
        let last = last.filter(|message| !is_deletion(&message.headers));
        Ok(last.and_then(|message| {
            Some(Entry {
                key: key.clone(),
                value: message.payload,
                revision: Revision::new(message.sequence)?,
            })
        }))
    }

    pub(super) async fn create(
        &self,
        names: &Names,
        key: &Key,
        value: Bytes,
    ) -> Result<Revision, ClusterError> {
        let created = self.write(names, key, Some(value.clone()), Some(0)).await;
        let Err(ClusterError::Conflict(_)) = created else {
            return created;
        };
        // what is there may be a deletion
        match self.last(names, key).await? {
            Some(last) if is_deletion(&last.headers) => {
                self.write(names, key, Some(value), Some(last.sequence))
                    .await
            }
            _ => created,
        }
    }

    /// Puts a value, or takes it away if there is none; on condition that the last message has the number `expected`.
    pub(super) async fn write(
        &self,
        names: &Names,
        key: &Key,
        value: Option<Bytes>,
        expected: Option<u64>,
    ) -> Result<Revision, ClusterError> {
        match expected {
            Some(expected @ 1..) if self.lets_two_win => {
                self.write_alone(names, key, value, expected).await
            }
            _ => self.send(names, key, value, (expected, None)).await,
        }
    }

    /// As [`write`](Self::write), for servers that let two win who expect the same message of a replicated bucket: they look
    /// at the subject before they put a change in order, and at the bucket's last number after. So this one is expected
    /// too, and another change of any key meanwhile means another try.
    async fn write_alone(
        &self,
        names: &Names,
        key: &Key,
        value: Option<Bytes>,
        expected: u64,
    ) -> Result<Revision, ClusterError> {
        loop {
            let info = self.stream.get_info().await;
            let of_all = info.map_err(|error| failed(&error))?.state.last_sequence;
            let last = self.last(names, key).await?;
            if last.is_none_or(|last| last.sequence != expected) {
                return Err(ClusterError::Conflict(key.clone()));
            }
            let conditions = (Some(expected), Some(of_all));
            match self.send(names, key, value.clone(), conditions).await {
                Err(ClusterError::Conflict(_)) => {}
                sent => return sent,
            }
        }
    }

    async fn send(
        &self,
        names: &Names,
        key: &Key,
        value: Option<Bytes>,
        (expected, of_all): (Option<u64>, Option<u64>),
    ) -> Result<Revision, ClusterError> {
        let mut headers = HeaderMap::new();
        if let Some(expected) = expected {
            headers.insert(EXPECTED, expected.to_string());
        }
        if let Some(of_all) = of_all {
            headers.insert(EXPECTED_OF_ALL, of_all.to_string());
        }
        if value.is_none() {
            headers.insert(OPERATION, DELETED);
        }
        let subject = names.value(key);
        let published =
            self.context
                .publish_with_headers(subject, headers, value.unwrap_or_default());
        let acknowledged = match published.await {
            Ok(acknowledgement) => acknowledgement.await,
            Err(error) => Err(error),
        };
        let acknowledged = acknowledged.map_err(|error| match error.kind() {
            PublishErrorKind::WrongLastSequence => ClusterError::Conflict(key.clone()),
            PublishErrorKind::Other if is_overtaken(&error) => ClusterError::Conflict(key.clone()),
            // the connection may have gone after the change was made
            PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => ClusterError::TimedOut,
            PublishErrorKind::MaxPayloadExceeded => ClusterError::Broken(
                "the broker's max_payload is smaller than what `cluster init` writes".to_owned(),
            ),
            PublishErrorKind::StreamNotFound
            | PublishErrorKind::WrongLastMessageId
            | PublishErrorKind::MaxAckPending
            | PublishErrorKind::Other => failed(&error),
        })?;
        Revision::new(acknowledged.sequence)
            .ok_or_else(|| ClusterError::Broken("a change without a number".to_owned()))
    }

    pub(super) async fn delete(
        &self,
        names: &Names,
        key: &Key,
        known: Option<Revision>,
    ) -> Result<(), ClusterError> {
        if known.is_none() && self.get(names, key).await?.is_none() {
            return Ok(());
        }
        let expected = known.map(Revision::get);
        self.write(names, key, None, expected).await.map(drop)
    }

    /// All that is there, each value as the bucket's leader has it: a replica, from which a watch is fed, may lag behind.
    pub(super) async fn list(
        &self,
        names: &Names,
        prefix: &Prefix,
    ) -> Result<Vec<Entry>, ClusterError> {
        let subjects = self.stream.info_with_subjects(names.values_below(prefix));
        let subjects = subjects.await.map_err(|error| failed(&error))?;
        let found = subjects.map_err(|error| failed(&error));
        let found = found.map_ok(|(subject, _count)| async move {
            match names.key_of_value(&subject) {
                Some(key) => self.get(names, &key).await,
                None => Ok(None),
            }
        });
        let mut entries: Vec<Entry> = found
            .try_buffer_unordered(READS)
            .try_filter_map(|entry| async move { Ok(entry) })
            .try_collect()
            .await?;
        entries.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(entries)
    }

    /// All that is there, and then what changes. It is all there with what was last before it began or what has replaced
    /// that since: servers may go on counting as pending what was replaced.
    pub(super) async fn follow(
        &self,
        names: &Names,
        prefix: &Prefix,
    ) -> Result<(Vec<Entry>, push::Ordered), ClusterError> {
        let subjects = names.values_below(prefix);
        let last = self.last_of(&subjects).await?;
        let last = last.map_or(0, |last| last.sequence);
        let consumer = self.stream.create_consumer(push::OrderedConfig {
            deliver_subject: self.client.new_inbox(),
            filter_subject: subjects,
            deliver_policy: DeliverPolicy::LastPerSubject,
            replay_policy: ReplayPolicy::Instant,
            ..push::OrderedConfig::default()
        });
        let consumer = consumer.await.map_err(|error| failed(&error))?;
        let mut complete = last == 0 || consumer.cached_info().num_pending == 0;
        let messages = consumer.messages().await;
        let mut messages = messages.map_err(|error| failed(&error))?;
        let mut entries = BTreeMap::new();
        while !complete {
            let message = messages.next().await.ok_or(ClusterError::Closed)?;
            let message = message.map_err(|error| failed(&error))?;
            let is_last = |info: Info<'_>| info.stream_sequence >= last || info.pending == 0;
            complete = message.info().is_ok_and(is_last);
            match change(names, &message) {
                Some(Change::Put(entry)) => drop(entries.insert(entry.key.clone(), entry)),
                Some(Change::Deleted(key)) => drop(entries.remove(&key)),
                Some(Change::Snapshot(_)) | None => {}
            }
        }
        Ok((entries.into_values().collect(), messages))
    }
}

/// What a message says; none for what no relay has written.
pub(super) fn change(names: &Names, message: &Message) -> Option<Change> {
    let key = names.key_of_value(&message.subject)?;
    let number = message.info().ok()?.stream_sequence;
    if message.headers.as_ref().is_some_and(is_deletion) {
        return Some(Change::Deleted(key));
    }
    Some(Change::Put(Entry {
        key,
        value: message.payload.clone(),
        revision: Revision::new(number)?,
    }))
}

/// Whether another change of the same key was under way, as newer servers say it.
fn is_overtaken(error: &PublishError) -> bool {
    let said = error.source().and_then(|source| source.downcast_ref());
    said.is_some_and(|said: &jetstream::Error| {
        said.error_code() == ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT
    })
}

fn is_deletion(headers: &HeaderMap) -> bool {
    let operation = headers.get(OPERATION);
    operation.is_some_and(|operation| [DELETED, PURGED].contains(&operation.as_str()))
}

/// The innermost text says what happened. Whether it passes cannot be told, so it is taken to.
pub(super) fn failed(error: &(dyn std::error::Error + 'static)) -> ClusterError {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    ClusterError::Unreachable(innermost.to_string())
}
