use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn call() -> impl Strategy<Value = Call> {
    let source = (".*", ".*").prop_map(|(name, text)| Source { name, text });
    let put = (any::<u32>(), ".*").prop_map(|(place, json)| Put { place, json });
    let servers =
        (vec(put, 0..4), vec(any::<u32>(), 0..9)).prop_map(|(put, list)| Servers { put, list });
    let scripts = vec(source, 0..4);
    let rest = (any::<u64>(), any::<u64>(), any::<[bool; 2]>());
    (scripts, ".*", proptest::option::of(servers), rest).prop_map(
        |(scripts, input, servers, (now, seed, [asks, compiles]))| Call {
            scripts,
            input,
            servers,
            now,
            seed,
            asks,
            compiles,
        },
    )
}

fn order() -> impl Strategy<Value = ToWorker> {
    let setup = (any::<[u64; 5]>(), any::<i32>()).prop_map(
        |([memory, stack, interrupt, output, latest], niceness)| Setup {
            memory,
            stack,
            interrupt,
            output,
            latest,
            niceness,
        },
    );
    let answer = (".*", any::<bool>()).prop_map(|(text, failed)| Answer { text, failed });
    prop_oneof![
        setup.prop_map(Order::Setup),
        call().prop_map(Order::Call),
        answer.prop_map(Order::Answer),
    ]
    .prop_map(|order| ToWorker { order: Some(order) })
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let wrong = (0..6_i32, ".*").prop_map(|(kind, text)| Wrong { kind, text });
    prop_oneof![
        (".*", any::<bool>()).prop_map(|(text, truthy)| Outcome::Value(Json { text, truthy })),
        ".*".prop_map(Outcome::Server),
        vec(".*", 0..5).prop_map(|ids| Outcome::Servers(Ids { ids })),
        Just(Outcome::Pass(Empty {})),
        wrong.prop_map(Outcome::Fault),
    ]
}

fn report() -> impl Strategy<Value = FromWorker> {
    let returned =
        (outcome(), vec(".*", 0..4), any::<u64>()).prop_map(|(outcome, log, took)| Returned {
            outcome: Some(outcome),
            log,
            took,
        });
    let wish = prop_oneof![
        vec(".*", 0..4).prop_map(|words| Wish::Run(Argv { words })),
        Just(Wish::Processes(Empty {})),
    ];
    prop_oneof![
        vec(".*", 0..3).prop_map(|missing| Report::Ready(Ready { missing })),
        Just(Report::Begun(Empty {})),
        returned.prop_map(Report::Returned),
        wish.prop_map(|wish| Report::Ask(Ask { wish: Some(wish) })),
        any::<bool>().prop_map(|spent| Report::Finished(Finished { spent })),
    ]
    .prop_map(|report| FromWorker {
        report: Some(report),
    })
}

fn kind_of(error: &FrameError) -> String {
    match error {
        FrameError::Io(error) => format!("{:?}", error.kind()),
        FrameError::Closed | FrameError::TooLong { .. } | FrameError::Malformed(_) => {
            error.to_string()
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    let builder = &mut tokio::runtime::Builder::new_current_thread();
    builder.build().unwrap()
}

/// Both readers, over the same bytes.
fn read_both<M: Message + Default + PartialEq>(bytes: &[u8], max: usize) -> Result<M, FrameError> {
    let blocking: Result<M, _> = read(&mut &*bytes, max);
    let mut rest = bytes;
    let waiting = runtime().block_on(receive::<M>(&mut rest, max));
    assert_eq!(
        blocking.as_ref().err().map(kind_of),
        waiting.as_ref().err().map(kind_of)
    );
    assert!(blocking.as_ref().ok() == waiting.as_ref().ok());
    blocking
}

proptest! {
    #[test]
    fn what_is_written_is_read(order in order(), report in report()) {
        let frame = encode(&order, MAX_ORDER).unwrap();
        prop_assert_eq!(read_both::<ToWorker>(&frame, MAX_ORDER).unwrap(), order);
        let frame = encode(&report, MAX_ORDER).unwrap();
        prop_assert_eq!(read_both::<FromWorker>(&frame, MAX_ORDER).unwrap(), report);
    }

    #[test]
    fn messages_follow_each_other(reports in vec(report(), 0..5)) {
        let frames: Vec<u8> = reports
            .iter()
            .flat_map(|report| encode(report, MAX_ORDER).unwrap())
            .collect();
        let mut rest = frames.as_slice();
        for report in &reports {
            prop_assert_eq!(&read::<FromWorker>(&mut rest, MAX_ORDER).unwrap(), report);
        }
        let end = read::<FromWorker>(&mut rest, MAX_ORDER);
        prop_assert!(matches!(end, Err(FrameError::Closed)));
    }

    #[test]
    fn a_message_that_is_cut_short_is_an_error(order in order(), cut in any::<prop::sample::Index>()) {
        let frame = encode(&order, MAX_ORDER).unwrap();
        let cut = cut.index(frame.len());
        let error = read_both::<ToWorker>(&frame[..cut], MAX_ORDER).unwrap_err();
        prop_assert_eq!(matches!(error, FrameError::Closed), cut == 0);
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in vec(any::<u8>(), 0..200), max in 0..300_usize) {
        let _either: Result<FromWorker, _> = read_both(&bytes, max);
    }

    #[test]
    fn limits_hold_on_both_ends(order in order()) {
        let len = order.encoded_len();
        let frame = encode(&order, len).unwrap();
        if len > 0 {
            let refused = encode(&order, len - 1).unwrap_err().to_string();
            prop_assert_eq!(&refused, &format!("a message of {len} bytes, at most {} are allowed", len - 1));
            let unread = read_both::<ToWorker>(&frame, len - 1).unwrap_err().to_string();
            prop_assert_eq!(unread, refused);
        }
    }
}
