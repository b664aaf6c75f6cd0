//! A worker process from inside: reads calls from standard input, writes reports to standard output.

use std::cell::RefCell;
use std::io::{Stdin, Stdout, stdin, stdout};
use std::rc::Rc;

use sallyport_ops::Exit;

use crate::engine::{Engine, Outside};
use crate::protocol::{
    self, Ask, Call, Empty, Finished, FrameError, FromWorker, MAX_ORDER, Order, Outcome, Ready,
    Report, Returned, Setup, ToWorker, Wish, Wrong, WrongKind,
};
use crate::sandbox;

/// What a program calls for the hidden command that [`crate::Settings`] names. To be called before anything else: no
/// other thread, no open file.
///
/// Returns when the relay closes the pipe or a call has left the worker unfit for another.
#[must_use]
pub fn serve() -> Exit {
    match work() {
        Ok(()) | Err(Broken::Pipe(FrameError::Closed)) => Exit::Ok,
        // there is nobody to tell but the relay, which sees the pipe close
        Err(_broken) => Exit::Failure,
    }
}

/// Why a worker cannot go on.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Pipe(#[from] FrameError),
    #[error(transparent)]
    Sandbox(#[from] sandbox::SandboxError),
    #[error("the engine: {0}")]
    Engine(#[from] rquickjs::Error),
    #[error("not what comes next")]
    OutOfTurn,
}

fn work() -> Result<(), Broken> {
    let Order::Setup(setup) = Relay::order(&mut stdin())? else {
        return Err(Broken::OutOfTurn);
    };
    let mut engine = Engine::new(&setup)?;
    know_the_time_zone(&mut engine);
    engine.prepare()?;
    let missing = sandbox::enter(setup.memory, setup.niceness)?;
    let relay = Rc::new(Relay::new(&setup));
    relay.report(Report::Ready(Ready { missing }))?;
    loop {
        let Order::Call(call) = Relay::order(&mut relay.from.borrow_mut())? else {
            return Err(Broken::OutOfTurn);
        };
        let spent = engine.run(&call, &relay);
        relay.report(Report::Finished(Finished { spent }))?;
        if spent {
            return Ok(());
        }
        engine.prepare()?;
    }
}

/// The C library reads the zone's file at the first use of local time; later no file can be opened.
fn know_the_time_zone(engine: &mut Engine) {
    struct Nobody;
    impl Outside for Nobody {
        fn begun(&self) {}
        fn returned(&self, _: Returned) -> bool {
            true
        }
        fn ask(&self, _: Wish) -> Result<String, String> {
            Err(String::new())
        }
    }
    let call = Call {
        scripts: vec![protocol::Source {
            text: "() => new Date(0).getHours()".to_owned(),
            ..protocol::Source::default()
        }],
        input: "{}".to_owned(),
        ..Call::default()
    };
    engine.run(&call, &Rc::new(Nobody));
}

/// The relay at the other end of the pipes.
struct Relay {
    from: RefCell<Stdin>,
    to: RefCell<Stdout>,
    max: usize,
}

impl Relay {
    fn new(setup: &Setup) -> Self {
        let output = usize::try_from(setup.output).unwrap_or(usize::MAX);
        Self {
            from: RefCell::new(stdin()),
            to: RefCell::new(stdout()),
            max: protocol::max_report(output),
        }
    }

    fn order(from: &mut Stdin) -> Result<Order, Broken> {
        let message: ToWorker = protocol::read(from, MAX_ORDER)?;
        message.order.ok_or(Broken::OutOfTurn)
    }

    fn report(&self, report: Report) -> Result<(), Broken> {
        let message = FromWorker {
            report: Some(report),
        };
        Ok(protocol::write(
            &mut *self.to.borrow_mut(),
            &message,
            self.max,
        )?)
    }
}

impl Outside for Relay {
    fn begun(&self) {
        // a pipe that is gone is noticed by the next read
        let _gone = self.report(Report::Begun(Empty {}));
    }

    fn returned(&self, returned: Returned) -> bool {
        let took = returned.took;
        match self.report(Report::Returned(returned)) {
            Ok(()) => true,
            Err(Broken::Pipe(FrameError::TooLong { .. })) => {
                let too_large = Returned {
                    outcome: Some(Outcome::Fault(Wrong::new(WrongKind::TooLarge, ""))),
                    log: Vec::new(),
                    took,
                };
                let _gone = self.report(Report::Returned(too_large));
                false
            }
            Err(_gone) => false,
        }
    }

    fn ask(&self, wish: Wish) -> Result<String, String> {
        let gone = |_broken| "the relay is gone".to_owned();
        match self.report(Report::Ask(Ask { wish: Some(wish) })) {
            Ok(()) => {}
            Err(Broken::Pipe(FrameError::TooLong { max, .. })) => {
                return Err(format!("a command may have {max} bytes"));
            }
            Err(broken) => return Err(gone(broken)),
        }
        match Self::order(&mut self.from.borrow_mut()).map_err(gone)? {
            Order::Answer(answer) if answer.failed => Err(answer.text),
            Order::Answer(answer) => Ok(answer.text),
            Order::Setup(_) | Order::Call(_) => Err("the relay is out of turn".to_owned()),
        }
    }
}
