//! What is said on topics of the bus, and the keys that it must be signed with as they are now.

use std::sync::Arc;

use sallyport_cluster::{Bus, Delivery, Message, Prefix, Subscription, Verifier};
use sallyport_link::ClusterKeys;
use tokio::sync::watch;
use tokio::time::sleep;

use super::{AGAIN_AFTER, GOOD_FOR};
use crate::credentials::signing;

/// A subscription, and who may be believed.
#[derive(Debug)]
pub(super) struct Hearing {
    heard: Subscription,
    keys: watch::Receiver<Arc<ClusterKeys>>,
    verifier: Verifier,
}

impl Hearing {
    /// Subscribes, however often it fails before: each failure is told.
    pub(super) async fn begin(
        bus: &dyn Bus,
        topics: &Prefix,
        mut keys: watch::Receiver<Arc<ClusterKeys>>,
        failed: impl Fn(&str),
    ) -> Self {
        let verifier = Verifier::new(signing(&keys.borrow_and_update())).for_at_most(GOOD_FOR);
        let heard = loop {
            match bus.subscribe(topics).await {
                Ok(subscription) => break subscription,
                Err(error) => failed(&error.to_string()),
            }
            sleep(AGAIN_AFTER).await;
        };
        Self {
            heard,
            keys,
            verifier,
        }
    }

    /// The next message; none once nothing comes any more. Safe to cancel.
    pub(super) async fn next(&mut self) -> Option<Message> {
        loop {
            tokio::select! {
                delivery = self.heard.next() => match delivery? {
                    Delivery::Message(message) => return Some(message),
                    Delivery::Gap => {} // who was missed is heard again within two seconds
                },
                changed = self.keys.changed() => {
                    changed.ok()?;
                    let keys = signing(&self.keys.borrow_and_update());
                    self.verifier = std::mem::take(&mut self.verifier).rotated(keys);
                }
            }
        }
    }

    /// Checks messages by the keys of now.
    pub(super) const fn verifier(&self) -> &Verifier {
        &self.verifier
    }
}
