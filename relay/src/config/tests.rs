use sallyport_wire::message::Sticky;

use super::*;

const EXAMPLE: &str = include_str!("../../relay.example.toml");

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("/etc/sallyport/relay.toml")).map_err(|error| error.to_string())
}

fn fault(text: &str) -> String {
    parse(text).expect_err("must be refused")
}

fn with(extra: &str) -> String {
    format!(
        "node = \"n1\"\n[[session]]\nid = \"a\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:80\"\n{extra}\n"
    )
}

#[test]
fn the_smallest_file_is_enough() {
    let config = parse(
        r#"
        gateway_file = "gateway.json"
        [[session]]
        id = "notebook"
        protocol = "http"
        target = "127.0.0.1:8888"
        access = "public"
        "#,
    )
    .expect("loads");

    assert_eq!(config.node.as_str(), host_name().expect("a host name"));
    assert_eq!(
        config.gateway_files,
        [PathBuf::from("/etc/sallyport/gateway.json")]
    );
    assert_eq!(config.tunnels, 2);
    let session = &config.sessions[0];
    assert!(session.strip_prefix && session.trusted && session.anonymous() && !session.blind());
}

#[test]
fn an_empty_file_serves_nothing_and_is_fine() {
    let config = parse("").expect("loads");
    assert!(config.sessions.is_empty() && config.gateway_files.is_empty());
}

#[test]
fn the_example_loads_and_shows_the_real_defaults() {
    let config = parse(EXAMPLE).expect("loads");

    assert_eq!(config.limits, Limits::default());
    let shown = Log {
        level: None,
        ..config.log
    };
    assert_eq!(shown, Log::default());
    let metrics = MetricsConfig {
        folder: PathBuf::from("/etc/sallyport/metrics"),
        ..MetricsConfig::default()
    };
    assert_eq!(config.metrics, metrics);
    assert_eq!(config.placement, PlacementConfig::default());
    assert_eq!(config.sessions.len(), 3);
    assert_eq!(config.static_data["group"], "render");
    for line in Limits::LINES {
        assert!(EXAMPLE.contains(&format!("\n{line}\n")), "{line}");
    }
}

#[test]
fn every_key_of_the_example_that_is_commented_out_is_known() {
    let uncommented = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.split_once(" = ").is_some_and(|(key, _)| is_key(key)) => rest,
            Some(table) if table.starts_with("[[") => table,
            _ => line,
        })
        .fold(String::new(), |text, line| text + line + "\n");

    let config = parse(&uncommented).expect("loads");
    assert_eq!(config.sessions[0].answer_within, 300);
    assert!(config.direct.is_some_and(|direct| direct.front.is_some()));
    assert_eq!(config.peers.len(), 1);
}

fn is_key(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

#[test]
fn an_unknown_key_in_any_table_is_refused_with_its_line() {
    let tables: Vec<usize> = EXAMPLE
        .lines()
        .enumerate()
        .filter(|(_, line)| line.starts_with('[') && *line != "[static_data]")
        .map(|(place, _)| place)
        .collect();
    assert_eq!(tables.len(), 9);
    for place in tables.into_iter().map(|place| place + 1).chain([0]) {
        let mut lines: Vec<&str> = EXAMPLE.lines().collect();
        lines.insert(place, "x_unknown = 1");
        let text = fault(&lines.join("\n"));

        assert!(text.contains("x_unknown"), "{text}");
        assert!(
            text.contains("relay.toml") && text.contains(&(place + 1).to_string()),
            "{text}"
        );
    }
    let inner = EXAMPLE.replace(
        "key = \"desk.key\" }",
        "key = \"desk.key\", x_unknown = 1 }",
    );
    assert!(fault(&inner).contains("x_unknown"));
    let inner = EXAMPLE.replace("groups = [\"staff\"] }", "x_unknown = 1 }");
    assert!(fault(&inner).contains("x_unknown"));
}

#[test]
fn all_faults_are_named_at_once_each_with_its_line() {
    let text = fault(
        "node = \"Node_1\"\ntunnels = 5\nadmin = \"0.0.0.0:1\"\n[limits]\nhead = 0\n[[session]]\nid = \"a\"\nprotocol = \"tcp\"\ntarget = \"nowhere\"\n",
    );

    for (line, word) in [
        (1, "node name"),
        (2, "between 1 and 4"),
        (3, "loopback"),
        (5, "head"),
        (9, "nowhere"),
    ] {
        let place = format!("relay.toml: line {line}: ");
        assert!(
            text.lines().any(|l| l.contains(&place) && l.contains(word)),
            "{line} {word}: {text}"
        );
    }
}

#[test]
fn streams_without_identity_need_a_rule() {
    let session = |extra: &str| {
        parse(&format!(
            "node = \"n1\"\n[[session]]\nid = \"ssh\"\nprotocol = \"tcp\"\ntarget = \"127.0.0.1:22\"\n{extra}\n"
        ))
    };

    assert!(
        session("")
            .expect_err("refused")
            .contains("carry no identity")
    );
    assert!(session("access = { users = [\"ada\"] }").is_err());
    assert!(session("access = \"public\"").is_ok());
    assert!(session("sources = [\"10.0.0.0/8\"]").is_ok());
    assert!(
        session("client_ca = \"ca.crt\"")
            .expect_err("refused")
            .contains("tls")
    );
    assert!(session("client_ca = \"ca.crt\"\ntls = { cert = \"a\", key = \"b\" }").is_ok());
}

#[test]
fn keys_that_do_not_fit_together_are_refused() {
    for extra in [
        "access = \"everyone\"",
        "access = { users = [] }",
        "health = \"healthz\"",
        "proxy_protocol = 3",
        "weight = 1001",
        "answer_within = 0",
        "pool = \"A\"",
        "sources = [\"10.0.0.1/33\"]",
        "tls = { cert = \"a\" }",
    ] {
        assert!(parse(&with(extra)).is_err(), "{extra}");
    }
    let vnc = with("health = \"/x\"").replace("\"http\"", "\"vnc\"");
    assert!(fault(&vnc).contains("health = \"tcp\""));
}

#[test]
fn what_is_sticky_fits_the_pool() {
    let sticky = |extra: &str| parse(&with(extra)).map(|config| config.sessions[0].sticky);
    let loads = |extra: &str| sticky(extra).expect("loads");
    assert_eq!(loads("pool = \"p\""), Sticky::Unset);
    for word in [Sticky::None, Sticky::Source, Sticky::Cookie] {
        let name = word.word().expect("a word");
        assert_eq!(loads(&format!("pool = \"p\"\nsticky = \"{name}\"")), word);
    }
    let tls = "tls = { cert = \"a\", key = \"b\" }\n";
    let tcp = with("pool = \"p\"\naccess = \"public\"\nsticky = \"cookie\"").replace("http", "tcp");
    for (text, says) in [
        (with("sticky = \"source\""), "goes with a pool"),
        (
            with("pool = \"p\"\nsticky = \"ip\""),
            "unknown value `ip`: known here: cookie, source, none",
        ),
        (
            with(&format!("{tls}pool = \"p\"\nsticky = \"cookie\"")),
            "write sticky = \"source\"",
        ),
        (tcp, "write sticky = \"source\""),
    ] {
        assert!(fault(&text).contains(says), "{text}: {}", fault(&text));
    }
}

#[test]
fn commands_of_metrics_are_whole_or_open_at_the_end() {
    let metrics = |run: &str| parse(&format!("node = \"n1\"\n[metrics]\nrun = {run}"));
    let config = metrics("[\"/usr/bin/lmstat\", [\"/bin/df\", \"-P\"]]").expect("loads");
    let expected = [["/usr/bin/lmstat", "*"], ["/bin/df", "-P"]];
    assert_eq!(config.metrics.run, expected);
    for (run, word) in [
        ("[\"lmstat\"]", "absolute"),
        ("[[]]", "absolute"),
        ("[7]", "expected a program"),
    ] {
        let fault = metrics(run).expect_err("refused");
        assert!(fault.contains(word) && fault.contains('3'), "{fault}");
    }
    assert!(fault("node = \"n1\"\n[metrics]\nevery = \"100ms\"").contains("every"));
}

#[test]
fn ids_are_unique_and_at_most_512() {
    let twice =
        with("") + "[[session]]\nid = \"a\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:81\"\n";
    assert!(fault(&twice).contains("also in line 3"));

    let many = |count: usize| {
        (0..count).fold("node = \"n1\"\n".to_owned(), |text, n| {
            text + &format!(
                "[[session]]\nid = \"s{n}\"\nprotocol = \"http\"\ntarget = \"127.0.0.1:80\"\n"
            )
        })
    };
    assert_eq!(
        parse(&many(MAX_SESSIONS)).expect("loads").sessions.len(),
        MAX_SESSIONS
    );
    assert!(fault(&many(MAX_SESSIONS + 1)).contains("at most 512"));
}

#[test]
fn a_missing_file_says_what_to_do() {
    let error = Config::load(Path::new("/nonexistent/relay.toml")).expect_err("missing");
    assert!(error.to_string().contains("--config"));
}

#[test]
fn clients_come_in_with_a_url_and_a_certificate_or_not_at_all() {
    let direct = |text: &str| parse(&(with("") + "[direct]\n" + text));
    let listen = "listen = \"[::]:3300\"\n";
    let url = "url = \"https://n1.example.org:3300\"\n";
    let files = "cert = \"c.pem\"\nkey = \"c.key\"\n";
    let config = direct(&[listen, url, files].concat()).expect("loads");
    let front = config.direct.and_then(|direct| direct.front);
    let front = front.expect("clients come in");
    assert_eq!(front.tls.key, Path::new("/etc/sallyport/c.key"));
    assert!(!front.proxy_protocol && front.trusted_proxies.is_empty());
    let closed = direct(listen).expect("loads").direct;
    assert_eq!(closed.and_then(|direct| direct.front), None);

    for (text, part) in [
        ([listen, url].concat(), "all of `url`, `cert` and `key`"),
        ([listen, files].concat(), "all of `url`, `cert` and `key`"),
        ([url, files].concat(), "needs `listen`"),
        (
            [listen, "proxy_protocol = true\n"].concat(),
            "are for clients",
        ),
        ([listen, "redirect = true\n"].concat(), "are for clients"),
        (
            [listen, "trusted_proxies = [\"10.0.0.0/8\"]\n"].concat(),
            "are for clients",
        ),
        (
            [listen, "url = \"http://n1\"\n", files].concat(),
            "no URL of a node",
        ),
    ] {
        let text = direct(&text).expect_err("must be refused");
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn peers_are_other_nodes_each_once_with_an_address() {
    let peer = |node: &str, rest: &str| format!("[[peer]]\nnode = \"{node}\"\n{rest}\n");
    let at = |host: &str| format!("address = \"{host}\"");
    let config =
        parse(&(with("") + &peer("n2", &at("10.0.0.2")) + "[direct]\nlisten = \"[::]:3300\""));
    let config = config.expect("loads");
    assert_eq!(config.peers[0].address.to_string(), "10.0.0.2:3300");
    assert!(config.direct.is_some() && config.cluster_keys.ends_with(CLUSTER_KEYS));

    for (peers, part) in [
        (peer("n1", &at("10.0.0.2")), "this node itself"),
        (peer("n2", &at("a")) + &peer("n2", &at("b")), "also in line"),
        (peer("n2", &at("https://a")), "HOST:PORT"),
        (peer("n2", &(at("a") + "\nid = \"0123\"")), "32 hex digits"),
        (peer("n2", "host = \"a\""), "host"),
        ("[direct]\nport = 1\n".to_owned(), "port"),
    ] {
        let told = fault(&(with("") + &peers));
        assert!(told.contains(part), "{told}");
    }
    let many = |count: usize| {
        (0..count)
            .map(|n| peer(&format!("p{n}"), &at("a")))
            .collect::<String>()
    };
    assert!(parse(&(with("") + &many(MAX_PEERS))).is_ok());
    assert!(fault(&(with("") + &many(MAX_PEERS + 1))).contains("too many"));
}
