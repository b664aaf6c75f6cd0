//! What the relay and a worker process say to each other over the worker's standard input and output.
//!
//! A frame is its length as a little-endian `u32`, then a protobuf message, under a limit that the reader sets. Both
//! ends are the same binary, so nothing here is kept compatible.

use std::io::{self, Read, Write};
use std::time::Duration;

use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::script::Fault;

/// Bytes of the length in front of a message.
const PREFIX: usize = 4;

/// Most bytes of a message to a worker: a list of some thousand servers, all of them new to it. While it is taken in, the
/// worker holds it twice.
pub(crate) const MAX_ORDER: usize = 7 << 20;

/// Bytes of a report beside the returned value: the lines that a script logs, and what holds them together.
const BESIDE_THE_VALUE: usize = 512 << 10;

/// Most bytes of a message from a worker whose functions may return `output` bytes.
pub(crate) const fn max_report(output: usize) -> usize {
    output.saturating_add(BESIDE_THE_VALUE)
}

/// To a worker.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ToWorker {
    #[prost(oneof = "Order", tags = "1, 2, 3")]
    pub(crate) order: Option<Order>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Order {
    /// The first message.
    #[prost(message, tag = "1")]
    Setup(Setup),
    /// Run a function or a chain.
    #[prost(message, tag = "2")]
    Call(Call),
    /// What became of an `Ask`.
    #[prost(message, tag = "3")]
    Answer(Answer),
}

/// The limits of a worker, for all its calls.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Setup {
    /// Bytes of the JavaScript heap, kept servers included.
    #[prost(uint64, tag = "1")]
    pub(crate) memory: u64,
    /// Bytes of the JavaScript stack.
    #[prost(uint64, tag = "2")]
    pub(crate) stack: u64,
    /// Milliseconds of a processor's time after which a function is interrupted.
    #[prost(uint64, tag = "3")]
    pub(crate) interrupt: u64,
    /// Milliseconds after which it is interrupted, whatever it has had of the processor.
    #[prost(uint64, tag = "5")]
    pub(crate) latest: u64,
    /// By how much other work goes before that of the worker.
    #[prost(int32, tag = "6")]
    pub(crate) niceness: i32,
    /// Bytes of a returned value as JSON.
    #[prost(uint64, tag = "4")]
    pub(crate) output: u64,
}

/// One function, or several that a choice goes through.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Call {
    #[prost(message, repeated, tag = "1")]
    pub(crate) scripts: Vec<Source>,
    /// The input object as JSON, without the servers.
    #[prost(string, tag = "2")]
    pub(crate) input: String,
    /// The servers of a choice; without them the value is returned as it is.
    #[prost(message, optional, tag = "3")]
    pub(crate) servers: Option<Servers>,
    #[prost(uint64, tag = "4")]
    pub(crate) now: u64,
    #[prost(fixed64, tag = "5")]
    pub(crate) seed: u64,
    /// Whether the functions may ask for commands and processes.
    #[prost(bool, tag = "6")]
    pub(crate) asks: bool,
    /// Whether the functions are only compiled, and not called.
    #[prost(bool, tag = "7")]
    pub(crate) compiles: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Source {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) text: String,
}

/// A list of servers by the places where the worker keeps them.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Servers {
    /// What is new, kept from now on.
    #[prost(message, repeated, tag = "1")]
    pub(crate) put: Vec<Put>,
    /// The list, in order.
    #[prost(uint32, repeated, tag = "2")]
    pub(crate) list: Vec<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Put {
    #[prost(uint32, tag = "1")]
    pub(crate) place: u32,
    #[prost(string, tag = "2")]
    pub(crate) json: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Answer {
    /// The result as JSON, or the message to throw.
    #[prost(string, tag = "1")]
    pub(crate) text: String,
    #[prost(bool, tag = "2")]
    pub(crate) failed: bool,
}

/// From a worker.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct FromWorker {
    #[prost(oneof = "Report", tags = "1, 2, 3, 4, 5")]
    pub(crate) report: Option<Report>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Report {
    /// Set up; calls may come.
    #[prost(message, tag = "1")]
    Ready(Ready),
    /// The next function of the call begins now.
    #[prost(message, tag = "2")]
    Begun(Empty),
    /// That function ended.
    #[prost(message, tag = "3")]
    Returned(Returned),
    /// The running function waits for this.
    #[prost(message, tag = "4")]
    Ask(Ask),
    /// The call is over.
    #[prost(message, tag = "5")]
    Finished(Finished),
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Empty {}

/// How closed the worker's box is, for the log.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Ready {
    /// What this kernel does not offer; empty is all that we ask for.
    #[prost(string, repeated, tag = "1")]
    pub(crate) missing: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Returned {
    #[prost(oneof = "Outcome", tags = "1, 2, 3, 4, 5")]
    pub(crate) outcome: Option<Outcome>,
    #[prost(string, repeated, tag = "6")]
    pub(crate) log: Vec<String>,
    /// Nanoseconds that the function ran.
    #[prost(uint64, tag = "7")]
    pub(crate) took: u64,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Outcome {
    #[prost(message, tag = "1")]
    Value(Json),
    #[prost(string, tag = "2")]
    Server(String),
    #[prost(message, tag = "3")]
    Servers(Ids),
    #[prost(message, tag = "4")]
    Pass(Empty),
    #[prost(message, tag = "5")]
    Fault(Wrong),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Json {
    #[prost(string, tag = "1")]
    pub(crate) text: String,
    #[prost(bool, tag = "2")]
    pub(crate) truthy: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Ids {
    #[prost(string, repeated, tag = "1")]
    pub(crate) ids: Vec<String>,
}

/// A fault as the worker sees it; the limits it ran into are known to the relay.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Wrong {
    #[prost(enumeration = "WrongKind", tag = "1")]
    pub(crate) kind: i32,
    #[prost(string, tag = "2")]
    pub(crate) text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum WrongKind {
    Threw = 0,
    NotAFunction = 1,
    Unusable = 2,
    TimedOut = 3,
    OutOfMemory = 4,
    TooLarge = 5,
}

impl Wrong {
    pub(crate) fn new(kind: WrongKind, text: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            text: text.into(),
        }
    }

    /// The fault, under the limits of `setup`.
    pub(crate) fn fault(self, setup: &Setup) -> Fault {
        match self.kind() {
            WrongKind::Threw => Fault::Threw(self.text),
            WrongKind::NotAFunction => Fault::NotAFunction(self.text),
            WrongKind::Unusable => Fault::Unusable(self.text),
            WrongKind::TimedOut => Fault::TimedOut(Duration::from_millis(setup.interrupt)),
            WrongKind::OutOfMemory => Fault::OutOfMemory(setup.memory),
            WrongKind::TooLarge => Fault::TooLarge {
                what: "a returned value",
                limit: setup.output,
            },
        }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Ask {
    #[prost(oneof = "Wish", tags = "1, 2")]
    pub(crate) wish: Option<Wish>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Wish {
    /// Run this, program first.
    #[prost(message, tag = "1")]
    Run(Argv),
    /// List the processes.
    #[prost(message, tag = "2")]
    Processes(Empty),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Argv {
    #[prost(string, repeated, tag = "1")]
    pub(crate) words: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Finished {
    /// The worker is not fit for another call and ends.
    #[prost(bool, tag = "1")]
    pub(crate) spent: bool,
}

/// Why there is no message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// The other end is gone, between two messages.
    #[error("the other end closed")]
    Closed,
    /// Reading or writing failed, or the other end went within a message.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Over the limit.
    #[error("a message of {len} bytes, at most {max} are allowed")]
    TooLong { len: usize, max: usize },
    /// Not the protobuf that it should be.
    #[error("a malformed message: {0}")]
    Malformed(#[from] prost::DecodeError),
}

/// The frame of a message.
///
/// # Errors
/// [`FrameError::TooLong`] over `max`.
pub(crate) fn encode(message: &impl Message, max: usize) -> Result<Vec<u8>, FrameError> {
    let len = message.encoded_len();
    let prefix = u32::try_from(len)
        .ok()
        .filter(|_| len <= max)
        .ok_or(FrameError::TooLong { len, max })?;
    let mut frame = Vec::with_capacity(len.saturating_add(PREFIX));
    frame.extend_from_slice(&prefix.to_le_bytes());
    message.encode_raw(&mut frame);
    Ok(frame)
}

fn announced(prefix: [u8; PREFIX], max: usize) -> Result<usize, FrameError> {
    let len = usize::try_from(u32::from_le_bytes(prefix)).unwrap_or(usize::MAX);
    if len > max {
        return Err(FrameError::TooLong { len, max });
    }
    Ok(len)
}

/// Reads one message, waiting as long as it takes.
///
/// # Errors
/// [`FrameError`]; the pipe is then of no more use.
pub(crate) fn read<M: Message + Default>(
    from: &mut impl Read,
    max: usize,
) -> Result<M, FrameError> {
    let mut prefix = [0; PREFIX];
    let Some((first, rest)) = prefix.split_first_mut() else {
        return Err(FrameError::Closed);
    };
    if from.read(std::slice::from_mut(first))? == 0 {
        return Err(FrameError::Closed);
    }
    from.read_exact(rest)?;
    let mut body = vec![0; announced(prefix, max)?];
    from.read_exact(&mut body)?;
    Ok(M::decode(body.as_slice())?)
}

/// Reads one message. Not to be used again after it was dropped half-way.
///
/// # Errors
/// [`FrameError`]; the pipe is then of no more use.
pub(crate) async fn receive<M: Message + Default>(
    from: &mut (impl AsyncRead + Unpin),
    max: usize,
) -> Result<M, FrameError> {
    let mut prefix = [0; PREFIX];
    let Some((first, rest)) = prefix.split_first_mut() else {
        return Err(FrameError::Closed);
    };
    if from.read(std::slice::from_mut(first)).await? == 0 {
        return Err(FrameError::Closed);
    }
    from.read_exact(rest).await?;
    let mut body = vec![0; announced(prefix, max)?];
    from.read_exact(&mut body).await?;
    Ok(M::decode(body.as_slice())?)
}

/// Writes one message.
///
/// # Errors
/// [`FrameError`] over `max` or when the pipe is gone.
pub(crate) fn write(
    to: &mut impl Write,
    message: &impl Message,
    max: usize,
) -> Result<(), FrameError> {
    to.write_all(&encode(message, max)?)?;
    Ok(to.flush()?)
}

#[cfg(test)]
mod tests;
