//! What a configuration means, and each way to get it wrong.

use std::collections::BTreeMap;

use super::resolve::Source;
use super::{Error, Resolved, Settings, parse_file, resolve};

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn load(flags: &[(&str, &str)], environment: &[(&str, &str)], file: &str) -> Result<Resolved, Error> {
    let name = if file.starts_with('{') { "z4.json" } else { "z4.toml" };
    let table = parse_file(name, file)?;
    resolve(&map(flags), &map(environment), Some((name, &table)))
}

/// Returns the line that the operator reads.
fn line(flags: &[(&str, &str)], environment: &[(&str, &str)], file: &str) -> String {
    let settings = load(flags, environment, file).and_then(|resolved| Settings::new(&resolved));
    let line = settings.expect_err("is refused").to_string();
    assert!(!line.contains('\n'), "one line: {line:?}");
    line
}

#[test]
fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
    let file = "service_port = 1\nmetrics_port = 1\npeer_port = 1\npeer_id = \"f\"";
    let environment = [("Z4_SERVICE_PORT", "2"), ("Z4_METRICS_PORT", "2"), ("HOME", "/")];
    let resolved = load(&[("service_port", "3")], &environment, file).expect("is fine");
    let sources: Vec<String> = ["service_port", "metrics_port", "peer_port", "sql_port"]
        .iter()
        .map(|name| format!("{} {}", resolved.0[name].0.to_json(), resolved.0[name].1))
        .collect();
    assert_eq!(
        sources,
        [
            "3 flag --service-port",
            "2 environment variable Z4_METRICS_PORT",
            "1 z4.toml: peer_port",
            "3306 default"
        ]
    );
    let settings = Settings::new(&resolved).expect("is fine");
    assert_eq!((settings.service_port, settings.metrics_port, settings.host.host.0.as_str()), (3, 2, "f"));
}

#[test]
fn json_and_units_are_understood_and_an_empty_variable_is_unset() {
    let file = r#"{"peer_id": "a", "checkpoint_bytes": "32MiB", "stall_bytes": 67108864, "bootstrap_cluster": true}"#;
    let resolved = load(&[], &[("Z4_JOIN", ""), ("Z4_CHECKPOINT_BYTES", "")], file).expect("is fine");
    let host = Settings::new(&resolved).expect("is fine").host;
    assert_eq!((host.sizes.driver.checkpoint_bytes, host.sizes.driver.stall_bytes), (32 << 20, 64 << 20));
    assert!(host.bootstrap);
    assert_eq!(
        resolved.0["checkpoint_bytes"].1,
        Source::File { path: "z4.json".into(), key: "checkpoint_bytes".into() }
    );
}

#[test]
fn each_mistake_is_one_line_that_names_source_and_key() {
    let id = ("Z4_PEER_ID", "a");
    let cases: &[(String, &str)] = &[
        (
            line(&[], &[], ""),
            "Z4_PEER_ID is not set and has no default (Stable name of this host, required): set it, or give --peer-id",
        ),
        (
            line(&[], &[("Z4_PEERID", "a")], ""),
            "environment variable Z4_PEERID is not a setting; did you mean Z4_PEER_ID?",
        ),
        (
            line(&[], &[id], "servce_port = 1"),
            "z4.toml: servce_port is not a setting; did you mean service_port?",
        ),
        (
            line(&[], &[id], "Z4_SERVICE_PORT = 1"),
            "z4.toml: Z4_SERVICE_PORT is not a setting; did you mean service_port?",
        ),
        (
            line(&[], &[id], "colour = 1"),
            "z4.toml: colour is not a setting; `z4 server --help` lists them all",
        ),
        (
            line(&[], &[id, ("Z4_SERVICE_PORT", "http")], ""),
            "environment variable Z4_SERVICE_PORT: \"http\" is not a port, 0 to 65535",
        ),
        (
            line(&[("service_port", "65536")], &[id], ""),
            "flag --service-port: \"65536\" is not a port, 0 to 65535",
        ),
        (line(&[], &[id], "service_port = true"), "z4.toml: service_port: true is not a port, 0 to 65535"),
        (line(&[], &[id], "bootstrap_cluster = 3"), "z4.toml: bootstrap_cluster: 3 is not true or false"),
        (line(&[], &[], "peer_id = 1"), "z4.toml: peer_id: 1 is not text; write it in quotes"),
        (line(&[], &[id], "log_mode = \"fast\""), "z4.toml: log_mode: \"fast\" is not thread or inline"),
        (
            line(&[], &[id], "[server]\nport = 1"),
            "z4.toml: server is not a setting; `z4 server --help` lists them all",
        ),
        (line(&[], &[id], "a = = 1"), "z4.toml: this is not TOML: "),
        (line(&[], &[id], "{\"a\": }"), "z4.json: this is not JSON: "),
        (
            line(&[], &[id, ("Z4_JOIN", "b:1,c")], ""),
            "environment variable Z4_JOIN: \"b:1,c\" is not a list of host:port, separated by commas",
        ),
        (
            line(&[], &[id, ("Z4_INITIAL_PEERS", "a:1,b:2")], ""),
            "environment variable Z4_INITIAL_PEERS: \"a:1,b:2\" is not a list of id=host:port, separated by commas, as in ",
        ),
        (
            line(&[], &[id, ("Z4_INITIAL_PEERS", "b=b:1,c=c:1")], ""),
            "Z4_INITIAL_PEERS: this host, a, is not one of them; name it there as it is named by Z4_PEER_ID",
        ),
        (
            line(&[], &[id, ("Z4_INITIAL_PEERS", "a=a:1,b=a:1")], ""),
            "Z4_INITIAL_PEERS: address a:1 is that of host a",
        ),
        (
            line(&[], &[id, ("Z4_INITIAL_PEERS", "a=a:1")], "bootstrap_cluster = true"),
            "bootstrap_cluster and initial_peers are both set: ",
        ),
        (line(&[("peer_port", "2112")], &[id], ""), "metrics_port and peer_port are both 2112"),
        (
            line(&[("cache_bytes", "12XB")], &[id], ""),
            "flag --cache-bytes: \"12XB\" is not a size such as 64MiB",
        ),
        (line(&[("stall_bytes", "4MiB")], &[id], ""), "stall_bytes must be larger than checkpoint_bytes"),
        (line(&[("metrics_port", "6355")], &[id], ""), "service_port and metrics_port are both 6355"),
        (
            line(&[("bind_addr", "localhost")], &[id], ""),
            "flag --bind-addr: \"localhost\" is not an IP address",
        ),
        (line(&[], &[("Z4_PEER_ID", "a b")], ""), "environment variable Z4_PEER_ID: \"a b\" is not a name"),
    ];
    for (line, expected) in cases {
        assert!(line.starts_with(expected), "{line}\n  does not begin with\n{expected}");
    }
}

#[test]
fn other_hosts_are_told_where_this_one_is_reached() {
    let reached = |environment: &[(&str, &str)]| {
        let resolved = load(&[], environment, "peer_id = \"a\"").expect("is fine");
        let mut settings = Settings::new(&resolved).expect("is fine");
        settings.reached_at(7, 8);
        (settings.host.advertise, settings.host.service)
    };
    let both = |advertise: &str, service: &str| (advertise.to_owned(), service.to_owned());
    assert_eq!(reached(&[]), both("127.0.0.1:8", "127.0.0.1:7"));
    assert_eq!(reached(&[("Z4_PEER_ADVERTISE_ADDR", "h:1")]), both("h:1", "h:7"));
    assert_eq!(reached(&[("Z4_INITIAL_PEERS", "a=h:1, b=i:1")]), both("h:1", "h:7"));
    let given = [("Z4_PEER_ADVERTISE_ADDR", "h:1"), ("Z4_SERVICE_ADVERTISE_ADDR", "s:2")];
    assert_eq!(reached(&given), both("h:1", "s:2"));
}

#[test]
fn what_kubernetes_says_of_a_service_named_z4_is_passed_over() {
    let links = [
        ("Z4_SERVICE_HOST", "10.0.0.1"),
        ("Z4_SERVICE_PORT_GRPC", "6355"),
        ("Z4_PORT", "tcp://10.0.0.1:6355"),
        ("Z4_PORT_6355_TCP", "tcp://10.0.0.1:6355"),
        ("Z4_PEER_ID", "a"),
    ];
    assert!(load(&[], &links, "").is_ok());
}
