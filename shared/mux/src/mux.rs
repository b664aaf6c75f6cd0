//! The handles of a connection: to open streams with, and to take those of the other side.

use std::sync::Arc;

use tokio::io::{AsyncBufRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::driver::Driver;
use crate::schedule::Class;
use crate::settings::Settings;
use crate::shared::{Figures, Role, Shared};
use crate::stream::Stream;

/// Makes a connection of streams out of one of bytes. Nothing happens until the driver is run.
#[must_use]
pub fn connection<S>(io: S, role: Role, settings: Settings) -> (Mux, Arrivals, Driver<S>)
where
    S: AsyncBufRead + AsyncWrite + Unpin,
{
    let (arriving, arrived) = mpsc::channel(settings.backlog.max(1));
    let shared = Arc::new(Shared::new(role, settings));
    let mux = Mux {
        shared: Arc::clone(&shared),
    };
    (mux, Arrivals { arrived }, Driver::new(io, shared, arriving))
}

/// The streams that the other side opens, in the order in which they are first used. Once this is dropped, they are
/// reset.
#[derive(Debug)]
pub struct Arrivals {
    arrived: mpsc::Receiver<Stream>,
}

impl Arrivals {
    /// The next one, or `None` once the connection is gone.
    pub async fn next(&mut self) -> Option<Stream> {
        self.arrived.recv().await
    }

    /// From now on new ones are reset.
    pub fn refuse(&mut self) {
        self.arrived.close();
    }
}

/// A connection of streams: opens them. Clones are the same connection.
#[derive(Debug, Clone)]
pub struct Mux {
    shared: Arc<Shared>,
}

impl Mux {
    /// Opens a stream; the other side hears of it with the first bytes. `None` if the connection is gone, or all
    /// numbers are used up.
    #[must_use]
    pub fn open(&self) -> Option<Stream> {
        self.open_as(Class::Sparse)
    }

    /// The same for a stream that goes before all others, and of which the other side hears at once.
    #[must_use]
    pub fn open_urgent(&self) -> Option<Stream> {
        let stream = self.open_as(Class::Urgent)?;
        stream.announce();
        Some(stream)
    }

    fn open_as(&self, class: Class) -> Option<Stream> {
        let channel = self.shared.open(class)?;
        Some(Stream::new(channel, Arc::clone(&self.shared)))
    }

    /// Live figures.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.shared.figures()
    }
}
