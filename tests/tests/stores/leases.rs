//! Leases on a real store and in real time; their rules are shown on the paused clock, beside their code.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use sallyport_cluster::lease::MIN_TTL;
use sallyport_cluster::{Key, Lease, LeaseError, Leases};
use sallyport_tests::BOUND;

use crate::pair::{Pair, key, look_again, soon};

pub(crate) async fn one_of_many_gets_a_lease(pair: &Pair) {
    let stores = [&pair.one, &pair.other].into_iter().cycle().take(8);
    let relays: Vec<_> = stores
        .map(|store| Leases::new(Arc::clone(store) as _))
        .collect();
    let at = key("leases/one");

    let tries = relays.iter().enumerate().map(|(n, leases)| {
        let (at, name) = (&at, n.to_string());
        async move { leases.take(at, &name, BOUND).await }
    });
    let outcomes = join_all(tries).await;

    let mut held: Vec<Lease> = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok(lease) => held.push(lease),
            Err(LeaseError::Taken(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(held.len(), 1);
    let lease = held.pop().expect("one");
    let token = lease.token();
    relays[0].release(lease).await.expect("given back");
    let next = relays[1].take(&at, "next", BOUND).await.expect("free");
    assert!(next.token() > token);
}

pub(crate) async fn a_lease_that_nobody_renews_is_free_again(pair: &Pair) {
    let ours = Leases::new(Arc::clone(&pair.one) as _);
    let theirs = Leases::new(Arc::clone(&pair.other) as _);
    let at = key("leases/left");
    let lease = ours.take(&at, "gone", MIN_TTL).await.expect("free");

    let next = soon("it is free again", patient(&theirs, &at)).await;

    assert!(!lease.is_held() && next.is_held());
    assert!(next.token() > lease.token());
    let left = ours.take(&at, "gone", Duration::from_secs(1)).await;
    assert!(matches!(left, Err(LeaseError::Taken(taken)) if taken.holder == "next"));
}

async fn patient(leases: &Leases, at: &Key) -> Lease {
    loop {
        match leases.take(at, "next", BOUND).await {
            Ok(lease) => return lease,
            Err(LeaseError::Taken(_)) => look_again().await,
            Err(other) => panic!("{other}"),
        }
    }
}
