//! Every store and every bus does the same: one suite, run against each of them with the real servers behind it.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod bus;
mod certificates;
mod crashing;
mod embedded;
mod killed;
mod leases;
mod nats;
mod pair;
mod queue;
mod redis;
mod relay;
mod reservations;
mod values;
mod watches;

/// The whole suite where it stands: a test for each case, for which `$start` makes a [`pair::Pair`]. Or the names and
/// [`pair::Case`]s of all, for servers that are slow to start.
macro_rules! conformance {
    (listed) => {
        $crate::conformance! { @cases listed }
    };
    ($start:expr) => {
        $crate::conformance! { @cases each $start }
    };
    (@cases $how:ident $($start:expr)?) => {
        $crate::conformance! { @$how $($start)?;
            values: a_value_is_there_until_it_is_deleted;
            values: compare_and_set_lets_one_win;
            values: no_update_of_two_who_hurry_is_lost;
            values: what_has_another_revision_is_neither_deleted_nor_replaced;
            values: revisions_of_a_key_rise_also_over_deletions;
            values: a_prefix_lists_what_is_below_it_in_order;
            values: what_is_too_large_is_refused_and_the_largest_is_kept;
            values: any_bytes_are_kept_under_any_key;
            watches: a_watch_tells_what_is_there_and_then_what_changes;
            watches: a_watch_sees_every_key_in_its_last_state;
            watches: a_slow_watcher_ends_up_with_what_is_there;
            bus: those_who_listen_hear_it;
            bus: a_request_is_answered;
            bus: a_request_to_nobody_and_one_without_answer_fail;
            bus: a_subscriber_that_does_not_listen_is_told_of_the_gap;
            bus: what_is_too_large_is_refused;
            leases: one_of_many_gets_a_lease;
            leases: a_lease_that_nobody_renews_is_free_again;
            reservations: two_users_never_have_one_server;
            queue: the_queue_outlives_the_relay_that_runs_it;
        }
    };
    (@each $start:expr; $($module:ident: $name:ident;)*) => {
        $(#[tokio::test]
        async fn $name() {
            let pair = $start;
            $crate::$module::$name(&pair).await;
        })*
    };
    (@listed; $($module:ident: $name:ident;)*) => {
        [$((
            stringify!($name),
            (|pair| Box::pin($crate::$module::$name(pair))) as $crate::pair::Case,
        )),*]
    };
}

pub(crate) use conformance;
