//! The bus: told to whoever listens, answered by whoever can.

use std::time::Duration;

use sallyport_cluster::{ClusterError, Delivery, Limits, Message, Subscription};
use sallyport_tests::BOUND;

use crate::pair::{Pair, key, look_again, prefix, soon};

async fn heard(subscription: &mut Subscription) -> Message {
    let delivery = soon("a message comes", subscription.next()).await;
    match delivery {
        Some(Delivery::Message(message)) => message,
        other => panic!("{other:?}"),
    }
}

/// A subscription of the other relay that the first one reaches: several servers tell each other of it a moment later.
async fn listening(pair: &Pair, topics: &str) -> Subscription {
    let topics = prefix(topics);
    let mut listening = pair.other.subscribe(&topics).await.expect("listens");
    let topic = key(&format!("{topics}/listening"));
    let say = async |text: &'static str| {
        let said = pair.one.publish(&topic, text.into()).await;
        said.expect("published");
    };
    let saying = async {
        loop {
            say("anybody?").await;
            look_again().await;
        }
    };
    tokio::select! {
        _first = heard(&mut listening) => {}
        () = saying => {}
    }
    say("good").await;
    while heard(&mut listening).await.payload != "good" {}
    listening
}

pub(crate) async fn those_who_listen_hear_it(pair: &Pair) {
    let mut near = pair.one.subscribe(&prefix("news")).await.expect("listens");
    let mut far = listening(pair, "news/n1").await;
    // which the near one has heard too
    let said = pair.one.publish(&key("news/n2"), "here".into()).await;
    said.expect("published");
    while heard(&mut near).await.payload != "here" {}

    for (topic, text) in [("news/n2.x", "a"), ("old/n1/x", "b"), ("news/n1/x", "c")] {
        let said = pair.one.publish(&key(topic), text.into()).await;
        said.expect("published");
    }

    let first = heard(&mut near).await;
    assert_eq!(
        (first.topic, first.payload, first.reply_to),
        (key("news/n2.x"), "a".into(), None)
    );
    assert_eq!(heard(&mut near).await.payload, "c");
    assert_eq!(heard(&mut far).await.payload, "c");
}

pub(crate) async fn a_request_is_answered(pair: &Pair) {
    let mut asked = listening(pair, "rpc").await;
    let answering = async {
        for _ in 0..3 {
            let question = heard(&mut asked).await;
            let to = question.reply_to.expect("somebody waits");
            let text = [b"re: ".as_slice(), &question.payload].concat();
            pair.other.answer(&to, text.into()).await.expect("answered");
        }
    };
    let asking = async {
        for text in ["one", "two", "three"] {
            let answer = pair.one.request(&key("rpc/n1"), text.into(), BOUND).await;
            assert_eq!(answer, Ok(format!("re: {text}").into()));
        }
    };
    tokio::join!(answering, asking);
}

pub(crate) async fn a_request_to_nobody_and_one_without_answer_fail(pair: &Pair) {
    let topic = key("rpc/n1");
    let asked = pair.one.request(&topic, "?".into(), BOUND).await;
    assert_eq!(asked, Err(ClusterError::NobodyAnswers(topic.clone())));

    let mut silent = listening(pair, "rpc").await;
    let short = Duration::from_millis(200);
    let asked = pair.one.request(&topic, "?".into(), short).await;
    assert_eq!(asked, Err(ClusterError::TimedOut));

    let late = heard(&mut silent).await.reply_to.expect("somebody waited");
    assert_eq!(pair.other.answer(&late, "!".into()).await, Ok(()));
}

pub(crate) async fn a_subscriber_that_does_not_listen_is_told_of_the_gap(pair: &Pair) {
    let mut slow = listening(pair, "flood").await;
    for _ in 0..100 {
        let said = pair.one.publish(&key("flood/x"), "drop".into()).await;
        said.expect("published");
    }

    let mut told = None;
    let found = async {
        while told != Some(Delivery::Gap) {
            told = slow.next().await;
            assert!(told.is_some(), "the bus goes on");
        }
    };
    soon("the gap is told", found).await;

    // and it hears what is said from now on
    let catching_up = async {
        loop {
            if let Some(Delivery::Message(message)) = slow.next().await
                && message.payload == "now"
            {
                return;
            }
        }
    };
    let saying = async {
        loop {
            let said = pair.one.publish(&key("flood/x"), "now".into()).await;
            said.expect("published");
            look_again().await;
        }
    };
    tokio::select! {
        () = soon("it hears again", catching_up) => {}
        () = saying => {}
    }
}

pub(crate) async fn what_is_too_large_is_refused(pair: &Pair) {
    let most = Limits::default().message;
    let mut listening = listening(pair, "large").await;
    let refused = pair
        .one
        .publish(&key("large/x"), vec![0; most + 1].into())
        .await;
    let bytes = most + 1;
    assert_eq!(refused, Err(ClusterError::TooLarge { bytes, most }));

    let fits = pair
        .one
        .publish(&key("large/x"), vec![1; most].into())
        .await;
    assert_eq!(fits, Ok(()));
    assert_eq!(heard(&mut listening).await.payload.len(), most);
}
