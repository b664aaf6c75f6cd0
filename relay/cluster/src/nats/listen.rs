//! Subscriptions on the bus.

use std::sync::Arc;

use async_nats::Subscriber;
use async_nats::client::RequestErrorKind;
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::sleep;
use tracing::warn;

use super::session::Session;
use super::state::State;
use super::{AGAIN_AFTER, Nats, values};
use crate::bus::{Delivery, Message, ReplyTo};
use crate::error::ClusterError;
use crate::hub::{Inbox, Outbox, Told};
use crate::key::Prefix;

/// What a subscriber is told next.
pub(super) async fn heard(mut inbox: Inbox<Message>) -> Option<(Delivery, Inbox<Message>)> {
    let delivery = match inbox.next().await? {
        Told::Item(message) => Delivery::Message(message),
        Told::Gap => Delivery::Gap,
    };
    Some((delivery, inbox))
}

/// Moves messages from the connection to the queue of one subscriber, so that a slow one holds up nobody.
pub(super) struct Listener {
    pub(super) nats: Nats,
    pub(super) topics: Prefix,
    pub(super) outbox: Outbox<Message>,
}

impl Listener {
    /// The server knows of the subscription when this is done.
    pub(super) async fn begin(&self, session: &Session) -> Result<Subscriber, ClusterError> {
        let subject = self.nats.0.names.topics_below(&self.topics);
        let beginning = async {
            let subscribed = session.client.subscribe(subject.clone()).await;
            let subscriber = subscribed.map_err(|error| values::failed(&error))?;
            // Answered by the server itself, after what came before it on this connection.
            let nobody = session.client.new_inbox();
            match session.client.request(nobody, Bytes::new()).await {
                Err(error) if error.kind() != RequestErrorKind::NoResponders => {
                    Err(values::failed(&error))
                }
                _ => Ok(subscriber),
            }
        };
        self.nats.within(&subject, beginning.boxed()).await
    }

    pub(super) async fn listen(self, mut begun: Option<Subscriber>) {
        let mut state = self.nats.0.state.subscribe();
        loop {
            let usable = tokio::select! {
                usable = state.wait_for(|state| state.usable().is_some()) => usable,
                () = self.outbox.closed() => return,
            };
            let Ok(Some(session)) = usable.map(|state| state.usable()) else {
                return;
            };
            let subscriber = match begun.take() {
                Some(subscriber) => Ok(subscriber),
                None => self.begin(&session).await,
            };
            match subscriber {
                Ok(subscriber) => self.pump(subscriber).await,
                Err(error) => {
                    let told = Arc::clone(&state.borrow().told);
                    if let Some(held_back) = told.pass(&error.to_string()) {
                        warn!(cause = %error, held_back, "cannot listen yet");
                    }
                    sleep(AGAIN_AFTER).await;
                }
            }
            if self.outbox.is_closed() {
                return;
            }
            self.outbox.gap();
        }
    }

    /// Until the subscription ends or nobody wants it any more.
    async fn pump(&self, mut subscriber: Subscriber) {
        let mut state = self.nats.0.state.subscribe();
        let mut known = missed(&state.borrow());
        loop {
            tokio::select! {
                () = self.outbox.closed() => return,
                changed = state.changed() => {
                    let now = missed(&state.borrow_and_update());
                    if changed.is_err() {
                        return;
                    }
                    if now != known {
                        known = now;
                        self.outbox.gap();
                    }
                }
                message = subscriber.next() => match message {
                    Some(message) => self.tell(message),
                    None => return,
                },
            }
        }
    }

    fn tell(&self, message: async_nats::Message) {
        let Some(topic) = self.nats.0.names.key_of_topic(&message.subject) else {
            return;
        };
        // no relay sends more
        if self.nats.0.limits.carries(&message.payload).is_err() {
            return self.outbox.gap();
        }
        self.outbox.push(Message {
            topic,
            payload: message.payload,
            reply_to: message.reply.map(|reply| ReplyTo(reply.as_str().into())),
        });
    }
}

/// Changes when messages may have been missed: by another connection, or by a client that dropped some.
const fn missed(state: &State) -> (u64, u64) {
    (state.epoch, state.dropped)
}
