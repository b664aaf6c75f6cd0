//! Every limit that a configuration can set has a test that reaches it: a limit that nobody reaches may as well not be
//! there. Whoever adds one names its test here.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const GATEWAY: &str = include_str!("../../gateway/gateway.example.toml");
const RELAY: &str = include_str!("../../relay/relay.example.toml");

/// The file of a test, and its name.
type Test = (&'static str, &'static str);

const STALLS: &str = "tests/tests/stalls.rs";
const HTTP2: &str = "tests/tests/http2.rs";
const TRAILERS: &str = "tests/tests/trailers.rs";
const PROMOTION: &str = "tests/tests/promotion.rs";
const DIRECT: &str = "tests/tests/direct.rs";
const HOP: &str = "tests/tests/hop.rs";
const RESERVATIONS: &str = "relay/placement/src/reservations/tests.rs";
const GPUS: &str = "relay/node/src/machine/gpus.rs";
const LIMITS: &str = "tests/tests/limits.rs";
const NEWCOMERS: &str = "gateway/tests/relays/newcomers.rs";
const WAITING: &str = "gateway/tests/relays/waiting.rs";
const GATEWAYS: &str = "gateway/tests/relays/limits.rs";
const RELAYS: &str = "gateway/tests/relays/main.rs";
const REGISTRY: &str = "gateway/src/registry/tests.rs";
const NAMES: &str = "shared/link/src/names.rs";
const LOST: &str = "gateway/src/registry/lost.rs";
const HEADS: &str = "shared/edge/src/gate/tests/bad_requests.rs";
const GATE1: &str = "shared/edge/src/gate/tests/http1.rs";
const GATE2: &str = "shared/edge/src/gate/tests/http2.rs";
const STREAMS: &str = "relay/tests/streams.rs";
const HEALTH: &str = "relay/src/health/tests.rs";

const PORT: Test = (HOP, "the_port_holds_so_many_and_no_more");
const TICKETS: Test = (
    "tests/tests/direct_urls.rs",
    "a_ticket_lets_in_to_one_session_at_its_own_node_once",
);
const CLIENTS: Test = (DIRECT, "connections_and_streams_of_clients_are_limited");
const SILENT: Test = (
    STALLS,
    "silent_clients_are_closed_and_others_served_meanwhile",
);
const DRIPPING: Test = (STALLS, "dripping_clients_are_closed");
const SIZES: Test = (HEADS, "limits_are_reached_at_their_exact_values");
const LATE_TRAILERS: Test = (
    TRAILERS,
    "trailers_that_are_too_much_or_out_of_place_are_refused",
);
const GLITCHES: Test = (GATE2, "frames_that_move_nothing_are_counted");
const CAPS: Test = (
    LIMITS,
    "streams_beyond_the_cap_are_refused_and_the_tunnel_stays",
);
const MOST_DATA: Test = (PROMOTION, "so_many_data_connections_and_no_more");
const HEALTHY: Test = (LIMITS, "health_decides_after_so_many_failures");

/// Limits of `gateway.toml`, each with a test that reaches it.
const GATEWAY_LIMITS: &[(&str, Test)] = &[
    (
        "drain",
        (RELAYS, "a_drain_that_takes_too_long_is_cut_short"),
    ),
    (
        "limits.answer",
        (HTTP2, "a_session_that_says_nothing_has_its_time"),
    ),
    ("limits.body_grace", DRIPPING),
    (
        "limits.body_rate",
        ("shared/edge/src/gate/paced.rs", "a_rate_is_kept_or_not"),
    ),
    ("limits.body_window", DRIPPING),
    (
        "limits.client_hello_bytes",
        (
            "tests/tests/passthrough.rs",
            "a_client_hello_longer_than_a_record_routes_where_it_may_be_so_long",
        ),
    ),
    ("limits.connections", (GATEWAYS, "clients_are_limited")),
    (
        "limits.connections_per_source",
        (GATEWAYS, "clients_of_one_source_are_limited"),
    ),
    ("limits.establish", SILENT),
    ("limits.field_bytes", SIZES),
    ("limits.fields", SIZES),
    ("limits.first_byte", SILENT),
    (
        "limits.h2_connection_window",
        (HTTP2, "more_bytes_than_the_window_of_a_connection_end_it"),
    ),
    ("limits.h2_glitches", GLITCHES),
    ("limits.h2_glitches_per", GLITCHES),
    (
        "limits.h2_local_resets",
        (HTTP2, "streams_that_have_to_be_reset_are_limited"),
    ),
    (
        "limits.h2_overhead",
        (GATE2, "bytes_without_payload_are_counted"),
    ),
    (
        "limits.h2_pending_resets",
        (
            HTTP2,
            "streams_that_are_reset_before_they_are_noticed_are_limited",
        ),
    ),
    (
        "limits.h2_ping",
        (HTTP2, "a_client_that_answers_no_ping_is_closed"),
    ),
    (
        "limits.h2_ping_answer",
        (HTTP2, "a_client_that_answers_no_ping_is_closed"),
    ),
    ("limits.h2_resets", (GATE2, "resets_are_counted")),
    ("limits.h2_resets_per", (GATE2, "resets_are_counted")),
    (
        "limits.h2_send_buffer",
        (
            HTTP2,
            "what_waits_for_a_client_that_reads_nothing_is_limited",
        ),
    ),
    (
        "limits.h2_stall",
        (HTTP2, "a_client_that_opens_no_window_loses_its_stream"),
    ),
    (
        "limits.h2_stream_window",
        (HTTP2, "more_bytes_than_the_window_of_a_stream_are_an_error"),
    ),
    (
        "limits.h2_streams",
        (HTTP2, "one_stream_more_than_announced_is_refused"),
    ),
    (
        "limits.half_closed",
        (
            GATE1,
            "a_client_that_has_finished_sending_still_gets_its_answer",
        ),
    ),
    (
        "limits.handshakes",
        (NEWCOMERS, "silent_strangers_keep_nobody_out"),
    ),
    (
        "limits.handshakes_per_source",
        (NEWCOMERS, "a_source_has_its_share_of_handshakes_over_tls"),
    ),
    ("limits.head", DRIPPING),
    ("limits.head_bytes", SIZES),
    (
        "limits.idle",
        (GATE2, "an_exchange_in_which_nothing_moves_is_cut"),
    ),
    ("limits.keep_alive", SILENT),
    (
        "limits.linger",
        (GATE1, "a_refused_client_is_let_go_after_the_linger"),
    ),
    (
        "limits.linger_bytes",
        (GATE1, "of_a_refused_client_only_so_much_is_read"),
    ),
    (
        "limits.max_age",
        (GATE1, "an_old_connection_is_asked_to_end"),
    ),
    (
        "limits.max_requests",
        (
            GATE1,
            "the_last_request_is_answered_and_the_connection_ends",
        ),
    ),
    ("limits.relay_wait", (WAITING, "a_wait_ends")),
    (
        "limits.relay_waiting",
        (WAITING, "so_many_wait_and_no_more"),
    ),
    ("limits.target_bytes", SIZES),
    ("limits.trailer_bytes", LATE_TRAILERS),
    ("limits.trailer_fields", LATE_TRAILERS),
    (
        "limits.upstream_idle",
        (
            "shared/edge/tests/front/streams.rs",
            "an_idle_stream_is_closed_in_order",
        ),
    ),
    (
        "limits.write_stall",
        (STALLS, "a_reader_that_takes_nothing_is_closed"),
    ),
    (
        "tunnels.home_grace",
        (REGISTRY, "a_home_is_not_stolen_but_moves_once_it_is_free"),
    ),
    (
        "tunnels.lost_for",
        (LOST, "a_lost_home_is_remembered_for_its_time_only"),
    ),
    (
        "tunnels.lost_homes",
        (
            LOST,
            "whoever_loses_many_homes_has_its_own_forgotten_not_those_of_others",
        ),
    ),
    (
        "tunnels.most",
        (RELAYS, "a_relay_that_may_not_join_binds_no_name"),
    ),
    ("tunnels.names", (NAMES, "the_number_of_names_is_limited")),
    (
        "tunnels.names_per_key",
        (NAMES, "one_key_binds_no_more_than_its_share_of_names"),
    ),
    (
        "tunnels.per_key",
        (
            REGISTRY,
            "tunnels_of_one_key_are_limited_and_another_key_finds_room",
        ),
    ),
    (
        "tunnels.per_node",
        (REGISTRY, "tunnels_of_one_process_coexist_up_to_the_limit"),
    ),
    (
        "tunnels.probe_every",
        (RELAYS, "a_tunnel_without_a_data_plane_is_never_up_and_ends"),
    ),
    (
        "tunnels.probe_misses",
        (RELAYS, "a_tunnel_without_a_data_plane_is_never_up_and_ends"),
    ),
    (
        "tunnels.prove_address_at",
        (
            NEWCOMERS,
            "relays_over_quic_prove_their_address_while_others_shake_hands",
        ),
    ),
    (
        "tunnels.rotate_every",
        (
            RELAYS,
            "a_relay_that_floods_the_gateway_with_tokens_loses_its_tunnel",
        ),
    ),
    (
        "tunnels.sessions",
        (
            REGISTRY,
            "malformed_and_surplus_offers_are_refused_one_by_one",
        ),
    ),
    (
        "tunnels.settle",
        (
            RELAYS,
            "after_a_restart_sessions_of_missing_nodes_count_as_lost_for_a_while",
        ),
    ),
    (
        "tunnels.silent_after",
        (
            "tests/tests/failures.rs",
            "a_relay_killed_over_quic_is_missed_before_its_tunnels_are_lost",
        ),
    ),
    (
        "tunnels.streams",
        (
            GATEWAYS,
            "streams_of_a_tunnel_are_limited_and_one_is_left_for_probes",
        ),
    ),
    (
        "tunnels.streams_per_source",
        (GATEWAYS, "streams_of_one_source_are_limited"),
    ),
    (
        "tunnels.token_age",
        (
            RELAYS,
            "a_tunnel_lives_as_long_as_fresh_tokens_are_presented",
        ),
    ),
    (
        "tunnels.tokens",
        (
            GATEWAYS,
            "tokens_are_remembered_up_to_a_number_and_then_none_is_taken",
        ),
    ),
    ("promotion.after", (PROMOTION, "little_stays_in_the_tunnel")),
    (
        "promotion.idle",
        (
            PROMOTION,
            "a_stream_leaves_its_tunnel_and_returns_whenever_it_is_idle",
        ),
    ),
    ("promotion.most", MOST_DATA),
    (
        "promotion.wait",
        (
            PROMOTION,
            "where_none_can_be_dialled_the_tunnel_carries_everything",
        ),
    ),
    (
        "flows.idle",
        (GATEWAYS, "flows_are_limited_whatever_their_source"),
    ),
    (
        "flows.most",
        (GATEWAYS, "flows_are_limited_whatever_their_source"),
    ),
    (
        "flows.per_source",
        (RELAYS, "flows_are_limited_by_source_and_end_when_idle"),
    ),
    (
        "flows.queue",
        (GATEWAYS, "datagrams_that_wait_in_a_flow_are_limited"),
    ),
];

/// Limits of `relay.toml`, each with a test that reaches it.
const RELAY_LIMITS: &[(&str, Test)] = &[
    ("limits.client_streams", CLIENTS),
    ("limits.client_streams_per_source", CLIENTS),
    (
        "limits.closing",
        (
            "shared/splice/src/run/tests.rs",
            "once_both_have_finished_the_rest_has_thirty_seconds",
        ),
    ),
    (
        "limits.connect",
        (
            LIMITS,
            "a_session_that_does_not_answer_the_connection_is_too_slow",
        ),
    ),
    ("limits.connections", CLIENTS),
    ("limits.connections_per_source", CLIENTS),
    ("limits.data_connections", MOST_DATA),
    (
        "limits.data_idle",
        (
            PROMOTION,
            "a_stream_leaves_its_tunnel_and_returns_whenever_it_is_idle",
        ),
    ),
    (
        "limits.gpu_every",
        (GPUS, "the_driver_is_asked_again_and_again"),
    ),
    (
        "limits.gpu_query",
        (
            GPUS,
            "one_that_hangs_is_killed_and_the_driver_asked_again_when_it_is_gone",
        ),
    ),
    (
        "limits.drain",
        (LIMITS, "a_drain_ends_what_does_not_end_by_itself"),
    ),
    (
        "limits.head",
        (
            LIMITS,
            "a_stream_whose_head_does_not_come_is_given_up_and_the_tunnel_stays",
        ),
    ),
    ("limits.health_every", HEALTHY),
    ("limits.health_failures", HEALTHY),
    (
        "limits.health_within",
        (HEALTH, "silence_is_a_failure_within_the_limit"),
    ),
    ("limits.handshakes", PORT),
    ("limits.handshakes_per_source", PORT),
    ("limits.idle", (LIMITS, "a_silent_stream_ends_as_idle")),
    (
        "limits.peer_idle",
        (
            HOP,
            "a_node_that_is_not_kept_is_dialled_when_a_stream_wants_it",
        ),
    ),
    (
        "limits.peer_names",
        (HOP, "a_name_belongs_to_the_node_key_that_came_first"),
    ),
    ("limits.peer_tunnels", PORT),
    (
        "limits.reservation_hold",
        (
            RESERVATIONS,
            "a_hold_tells_rivals_and_ends_when_it_first_would",
        ),
    ),
    (
        "limits.reservation_holds",
        (RESERVATIONS, "there_are_bounds"),
    ),
    (
        "limits.reservation_ttl",
        (
            RESERVATIONS,
            "after_a_crash_it_is_free_when_its_time_is_over_and_not_before",
        ),
    ),
    ("limits.streams", CAPS),
    ("limits.streams_per_tunnel", CAPS),
    ("limits.tickets", TICKETS),
    (
        "limits.tls_handshake",
        (STREAMS, "a_client_that_does_not_begin_tls_is_cut_off"),
    ),
    (
        "limits.udp_flows",
        (STREAMS, "flows_carry_datagrams_and_are_bounded"),
    ),
    (
        "limits.udp_idle",
        ("relay/src/udp.rs", "a_silent_flow_ends_after_its_idle_time"),
    ),
    (
        "limits.write_stall",
        (LIMITS, "a_session_that_takes_nothing_is_cut_off"),
    ),
];

/// Set by the process itself unless it is configured, so the example has no line for it.
const COMPUTED: &str = "limits.connections";

/// Keys of an example file, commented out or not, that are limits: those of its tables of limits, and how long a drain
/// may take.
fn limits(example: &str) -> BTreeSet<String> {
    let mut table = String::new();
    let mut keys = BTreeSet::new();
    for line in example.lines() {
        let line = line.trim_start_matches(['#', ' ']);
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            name.clone_into(&mut table);
        }
        let Some((key, _)) = line.split_once(" = ") else {
            continue;
        };
        match table.as_str() {
            "limits" | "tunnels" | "promotion" | "flows" if is_key(key) => {
                keys.insert(format!("{table}.{key}"))
            }
            "" if key == "drain" => keys.insert(key.to_owned()),
            _ => false,
        };
    }
    keys
}

fn is_key(text: &str) -> bool {
    text.chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Each limit is in the table and the other way round.
fn all_are_listed(example: &str, table: &[(&str, Test)]) {
    let there = limits(example);
    let listed: BTreeSet<String> = table.iter().map(|(key, _)| (*key).to_owned()).collect();
    assert_eq!(listed.len(), table.len(), "a limit is listed twice");
    let missing: Vec<_> = there.difference(&listed).collect();
    assert!(
        missing.is_empty(),
        "limits that no test reaches: {missing:?}"
    );
    let surplus: Vec<_> = listed
        .difference(&there)
        .filter(|key| *key != COMPUTED)
        .collect();
    assert!(surplus.is_empty(), "no limits: {surplus:?}");
}

#[test]
fn every_limit_of_a_gateway_has_a_test_that_reaches_it() {
    all_are_listed(GATEWAY, GATEWAY_LIMITS);
}

#[test]
fn every_limit_of_a_relay_has_a_test_that_reaches_it() {
    all_are_listed(RELAY, RELAY_LIMITS);
}

#[test]
fn the_tests_are_there() {
    let root: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (key, (file, name)) in GATEWAY_LIMITS.iter().chain(RELAY_LIMITS) {
        let text = fs::read_to_string(root.join(file)).expect("a file of tests");
        let mut lines = text.lines().rev();
        let declared = [format!("fn {name}() {{"), format!("async fn {name}() {{")];
        let found = lines
            .by_ref()
            .find(|line| declared.iter().any(|start| line.trim() == start));
        assert!(found.is_some(), "{key}: {file} has no {name}");
        let above = lines.next().unwrap_or_default();
        assert!(above.contains("test"), "{key}: {name} is no test");
    }
}
