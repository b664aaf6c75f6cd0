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

pub(crate) async fn those_who_listen_hear_it(pair: &Pair) {
    let mut near = pair.one.subscribe(&prefix("news")).await.expect("listens");
    let mut far = pair
        .other
        .subscribe(&prefix("news/n1"))
        .await
        .expect("listens");

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
    let mut asked = pair.other.subscribe(&prefix("rpc")).await.expect("listens");
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

    let mut silent = pair.other.subscribe(&prefix("rpc")).await.expect("listens");
    let short = Duration::from_millis(200);
    let asking = async {
        // that somebody listens comes to other servers a moment later
        loop {
            let asked = pair.one.request(&topic, "?".into(), short).await;
            match asked {
                Err(ClusterError::NobodyAnswers(_)) => look_again().await,
                asked => return asked,
            }
        }
    };
    let asked = soon("somebody is asked", asking).await;
    assert_eq!(asked, Err(ClusterError::TimedOut));

    let late = heard(&mut silent).await.reply_to.expect("somebody waited");
    assert_eq!(pair.other.answer(&late, "!".into()).await, Ok(()));
}

pub(crate) async fn a_subscriber_that_does_not_listen_is_told_of_the_gap(pair: &Pair) {
    let mut slow = pair
        .other
        .subscribe(&prefix("flood"))
        .await
        .expect("listens");
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
    let mut listening = pair
        .other
        .subscribe(&prefix("large"))
        .await
        .expect("listens");
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
