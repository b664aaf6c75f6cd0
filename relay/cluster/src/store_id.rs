//! Which store it is: an id that the first relay to use it puts there, so that relays can tell whether they share one.

use std::time::SystemTime;

use aws_lc_rs::rand;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::ClusterError;
use crate::key::{Key, NotAKey};
use crate::store::{Entry, Store};

/// Where it stands.
const PLACE: &str = "store/id";

/// Random bytes of an id.
const ID_BYTES: usize = 16;

/// Which store it is, and since when it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreId {
    /// 32 hexadecimal digits that no other store has.
    pub id: String,
    /// When it was used first, in milliseconds since 1970 by the clock of the relay that did.
    pub made: u64,
}

impl StoreId {
    /// The id of `store`; the first who asks puts it there.
    ///
    /// # Errors
    /// What keeps the store from telling, and [`ClusterError::Broken`] if something else stands there.
    pub async fn of(store: &dyn Store) -> Result<Self, ClusterError> {
        let place: Key = PLACE
            .parse()
            .map_err(|error: NotAKey| ClusterError::Broken(error.to_string()))?;
        if let Some(entry) = store.get(&place).await? {
            return Self::read(&entry);
        }
        let new = Self::new(SystemTime::now())?;
        // our own types always become JSON
        let value: Bytes = serde_json::to_vec(&new).unwrap_or_default().into();
        match store.create(&place, value).await {
            Ok(_revision) => Ok(new),
            Err(ClusterError::Conflict(_)) => match store.get(&place).await? {
                Some(entry) => Self::read(&entry),
                None => Err(ClusterError::Conflict(place)),
            },
            Err(error) => Err(error),
        }
    }

    fn new(now: SystemTime) -> Result<Self, ClusterError> {
        let mut bytes = [0; ID_BYTES];
        rand::fill(&mut bytes)
            .map_err(|_none| ClusterError::Broken("the system gave no random bytes".to_owned()))?;
        let since = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Ok(Self {
            id: bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
            made: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        })
    }

    fn read(entry: &Entry) -> Result<Self, ClusterError> {
        let read: Self = serde_json::from_slice(&entry.value)
            .map_err(|error| ClusterError::Broken(format!("{PLACE}: {error}")))?;
        let is_id = Self::is_id(&read.id);
        is_id
            .then_some(read)
            .ok_or_else(|| ClusterError::Broken(format!("{PLACE} holds no id")))
    }

    /// Whether a text has the form of an id.
    #[must_use]
    pub fn is_id(text: &str) -> bool {
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        text.len() == 2 * ID_BYTES && text.bytes().all(is_hex)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::Embedded;
    use crate::limits::Limits;

    #[tokio::test]
    async fn all_who_come_at_once_find_one_id_which_lasts() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("store");
        let open = || Embedded::open(&path, Limits::default()).expect("it opens");
        let store = open();
        let [one, other, third] = [&store, &store, &store].map(|store| StoreId::of(store));

        let (one, other, third) = tokio::join!(one, other, third);

        let one = one.expect("made");
        assert!(StoreId::is_id(&one.id) && one.made > 0, "{one:?}");
        assert_eq!((Ok(one.clone()), Ok(one.clone())), (other, third));
        drop(store);
        assert_eq!(StoreId::of(&open()).await, Ok(one));
    }

    #[tokio::test]
    async fn something_else_in_its_place_is_no_id() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Embedded::open(&dir.path().join("store"), Limits::default()).expect("it opens");
        let place = PLACE.parse().expect("a key");
        for value in ["", "{}", "{\"id\":\"X\",\"made\":1}"] {
            store.put(&place, value.into()).await.expect("put");
            let read = StoreId::of(&store).await;
            assert!(matches!(read, Err(ClusterError::Broken(_))), "{read:?}");
        }
    }
}
