use super::*;

const EXAMPLE: &str = include_str!("../../gateway.example.toml");
const SMALL: &str = "url = \"https://gw.example.org\"\n";

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("/etc/sallyport/gateway.toml")).map_err(|error| error.to_string())
}

/// The example with every `# key = value` and `# [table]` line in force.
fn uncommented() -> String {
    let line = |line: &str| match line.strip_prefix("#") {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => {
            rest.to_owned()
        }
        _ => line.to_owned(),
    };
    EXAMPLE.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_is_loaded_as_it_stands_and_in_full() {
    parse(EXAMPLE).expect("as shipped");
    let full = parse(&uncommented()).expect("with every key in force");

    assert_eq!(
        full.limits,
        Limits::default(),
        "the example shows the defaults"
    );
    assert_eq!(full.tunnels, Tunnels::default());
    assert_eq!(full.flows, Flows::default());
    let shown = Log {
        level: None,
        ..full.log
    };
    assert_eq!(shown, Log::default());
    assert_eq!(
        (full.tcp.len(), full.udp.len(), full.passthrough.len()),
        (2, 1, 1)
    );
    assert_eq!(full.clusters.len(), 1);
    let small = parse(SMALL).expect("the smallest file");
    assert_eq!(
        (full.drain, full.policy, full.user),
        (small.drain, small.policy, small.user)
    );
    assert_eq!(
        (full.cert, full.key, full.gateway_file),
        (small.cert, small.key, small.gateway_file)
    );
}

/// Field names as `{:#?}` prints them, one to a line.
fn fields(value: &dyn fmt::Debug) -> Vec<String> {
    let text = format!("{value:#?}");
    let name = |line: &str| {
        line.strip_prefix("    ")?
            .split_once(": ")
            .map(|(name, _)| name.to_owned())
    };
    text.lines().filter_map(name).collect()
}

#[test]
fn every_limit_stands_in_the_example() {
    let shown = uncommented();
    let computed = "connections";
    let all = [
        fields(&Limits::default()),
        fields(&Tunnels::default()),
        fields(&Flows::default()),
        fields(&Promotion::default()),
    ];
    for key in all.concat().iter().filter(|key| *key != computed) {
        assert!(shown.contains(&format!("\n{key} = ")), "{key} is not shown");
    }
}

#[test]
fn an_unknown_key_is_refused_in_every_table() {
    let shown = uncommented();
    let mut tables = 0;
    for (at, line) in shown.lines().enumerate() {
        if !line.starts_with('[') {
            continue;
        }
        let mut lines: Vec<_> = shown.lines().collect();
        lines.insert(at + 1, "x-unknown = 1");
        let error = parse(&lines.join("\n")).expect_err(line);
        assert!(error.contains("x-unknown"), "{line}: {error}");
        tables += 1;
    }
    assert_eq!(tables, 10);
    assert!(parse(&format!("x-unknown = 1\n{shown}")).is_err());
}

#[test]
fn the_smallest_file_listens_on_all_addresses_at_the_urls_port() {
    let config = parse("url = \"https://gw.example.org:8443\"").expect("enough");

    assert_eq!(config.listen, ["[::]:8443".parse().expect("an address")]);
    assert_eq!(
        config.gateway_file,
        Path::new("/etc/sallyport/gateway.json")
    );
    assert_eq!(config.drain, Duration::from_secs(120));
}

#[test]
fn faults_are_told_together_and_by_name() {
    let text = r#"
        url = "http://gw.example.org"
        sessions_domain = "*.example.org"
        admin = "192.0.2.1:9300"
        [[tcp]]
        listen = "0.0.0.0:22"
        [tunnels]
        most = 0
    "#;
    let error = parse(text).expect_err("many faults");
    for part in [
        "url",
        "sessions_domain",
        "admin",
        "[[tcp]] 0.0.0.0:22",
        "tunnels.most",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn a_raw_port_leads_to_one_place() {
    let raw = |rest: &str| format!("{SMALL}[[tcp]]\nlisten = \"0.0.0.0:22\"\n{rest}");

    assert!(parse(&raw("session = \"ssh\"")).is_ok());
    assert!(parse(&raw("pool = \"ssh\"")).is_ok());
    assert!(parse(&raw("")).is_err());
    assert!(parse(&raw("session = \"ssh\"\npool = \"ssh\"")).is_err());
    assert!(parse(&raw("session = \"Not A Session\"")).is_err());
}

#[test]
fn what_leads_to_a_session_or_pool_says_of_which_cluster() {
    let text = "[[tcp]]\nlisten = \"0.0.0.0:22\"\nsession = \"ssh\"\ncluster = \"bio\"\n\
        [[udp]]\nlisten = \"0.0.0.0:53\"\npool = \"dns\"\ncluster = \"bio\"\n\
        [[passthrough]]\nsni = \"desk.example.org\"\nsession = \"desk\"\n";
    let config = parse(&format!("{SMALL}{text}")).expect("fair");
    let all = config.tcp.iter().chain(&config.udp).map(|raw| &raw.to);
    let all = all.chain(config.passthrough.iter().map(|entry| &entry.to));

    let told: Vec<_> = all.map(ToString::to_string).collect();
    assert_eq!(
        told,
        ["ssh of cluster bio", "pool dns of cluster bio", "desk"]
    );
    let bad = parse(&format!("{SMALL}{}", text.replace("bio", "Bio 1"))).expect_err("no name");
    assert!(bad.contains("cluster name"), "{bad}");
}

#[test]
fn a_host_name_means_one_thing() {
    let cluster = |name: &str, host: &str, domain: &str| {
        let domain = match domain {
            "" => String::new(),
            domain => format!("sessions_domain = \"{domain}\"\n"),
        };
        format!("[[cluster]]\nname = \"{name}\"\nhost = \"{host}\"\n{domain}")
    };
    let bio = cluster("bio", "Bio.example.org.", "bio.example.org");
    let config = parse(&format!("{SMALL}{bio}")).expect("fair");
    let [known] = config.clusters.as_slice() else {
        panic!("one cluster: {:?}", config.clusters)
    };
    assert_eq!(known.host, "bio.example.org");
    assert_eq!(known.sessions_domain.as_deref(), Some("bio.example.org"));

    let sni = "[[passthrough]]\nsni = \"bio.example.org\"\nsession = \"x\"\n";
    for (more, fault) in [
        (bio.as_str(), "stands there twice"),
        (
            &cluster("geo", "bio.example.org", ""),
            "bio.example.org is the host of two clusters",
        ),
        (
            &cluster("geo", "gw.example.org", ""),
            "gw.example.org is the host of two clusters",
        ),
        (
            &cluster("geo", "geo.example.org", "bio.example.org"),
            "sessions_domain of two clusters",
        ),
        (
            &cluster("geo", "geo.bio.example.org", ""),
            "geo.bio.example.org would be a session",
        ),
        (
            &cluster("geo", "geo.example.org", "example.org"),
            "bio.example.org would be a session",
        ),
        (&cluster("", "geo.example.org", ""), "`name` is empty"),
        (&cluster("geo", "192.0.2.1", ""), "[[cluster]] geo: host"),
        (sni, "stands in [[passthrough]]"),
    ] {
        let error = parse(&format!("{SMALL}{bio}{more}")).expect_err(fault);
        assert!(error.contains(fault), "{fault}: {error}");
    }
}

#[test]
fn a_server_name_is_a_name() {
    let passthrough = |sni: &str| {
        parse(&format!(
            "{SMALL}[[passthrough]]\nsni = \"{sni}\"\nsession = \"desk\"\n"
        ))
    };
    assert!(passthrough("desk.example.org").is_ok());
    for address in ["192.0.2.1", "2001:db8::1"] {
        let error = passthrough(address).expect_err("an address");
        assert!(
            error.contains(address) && error.contains("clients send no server name"),
            "{error}"
        );
    }
}

#[test]
fn an_address_is_bound_once() {
    let twice = "[[tcp]]\nlisten = \"[::]:443\"\nsession = \"a\"";
    assert!(
        parse(&format!("{SMALL}{twice}"))
            .expect_err("twice")
            .contains("[::]:443")
    );
    let names = "[[passthrough]]\nsni = \"a.b\"\nsession = \"x\"\n".repeat(2);
    assert!(
        parse(&format!("{SMALL}{names}"))
            .expect_err("twice")
            .contains("twice")
    );
}

#[test]
fn a_running_gateway_takes_what_it_can_and_names_the_rest() {
    let before = parse(SMALL).expect("small");
    let text = "url = \"https://gw.example.org:8443\"\npolicy = \"random\"\n\
        [limits]\nhead = \"3s\"\nhandshakes = 7\n[flows]\nmost = 7\n";
    let (after, kept) = parse(text).expect("fair").while_running(&before);

    assert_eq!(kept, ["url", "listen", "limits.handshakes", "flows.most"]);
    assert_eq!((&after.url, &after.listen), (&before.url, &before.listen));
    assert_eq!(after.policy, Policy::Random);
    assert_eq!(after.limits.head, Duration::from_secs(3));
}

#[test]
fn a_key_has_room_for_a_large_site_and_leaves_some() {
    let tunnels = Tunnels::default();

    let share = tunnels.share_of_key(tunnels.most);
    assert!((8_000..tunnels.most).contains(&share), "{share}");
    assert_eq!(tunnels.share_of_key(1), 1);
}
