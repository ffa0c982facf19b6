//! A hub under TLS as its own process, and the clients for it.

use prom_testkit::{
    tls::{Authority, Issued},
    token,
};

use crate::common::{Folder, hub::Hub, prom};

fn trust(name: &str) -> (Folder, Authority, Issued) {
    let folder = Folder::new(name);
    let authority = Authority::new(&folder.0, "authority");
    let own = authority.issue("own");
    (folder, authority, own)
}

#[test]
fn a_client_trusts_the_authority_it_is_given_and_no_other() {
    let (folder, authority, own) = trust("tls");
    let [cert, key, ca] = [&own.cert, &own.key, &authority.cert].map(|path| path.to_str().unwrap().to_owned());
    // In the file and in the environment, half of it each.
    let file = folder.0.join("prom.toml");
    std::fs::write(&file, format!("[tls]\ncert_file = {cert:?}\n")).unwrap();
    let environment = [("TLS_KEY_FILE", key.as_str()), ("PROM_CONFIG", file.to_str().unwrap())];
    let hub = Hub::start(&folder.0.join("data"), &environment);
    let url = format!("wss://localhost:{}/ws", hub.address.port);
    let all = token(&["*:**"]);
    let publish = |more: &[&str], environment: &[(&str, &str)]| {
        let args = [&["pub", "orders", "1", "--url", &url, "--token", &all][..], more].concat();
        let output = prom(&args, environment, &folder.0);
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (ok, said) in [publish(&["--ca-file", &ca], &[]), publish(&[], &[("PROM_CA_FILE", &ca)])] {
        assert!(ok, "{said}");
    }
    let others = Authority::new(&folder.0, "others");
    let (ok, said) = publish(&["--timeout", "2s", "--ca-file", others.cert.to_str().unwrap()], &[]);
    assert!(!ok && said.contains("cannot connect to wss://localhost"), "{said}");
    assert!(said.contains("PROM_CA_FILE whose certificate to trust"), "{said}");
    for (file, words) in
        [("missing.pem", "missing.pem cannot be trusted"), ("own.key", "own.key cannot be trusted: it holds no")]
    {
        let (ok, said) = publish(&["--ca-file", folder.0.join(file).to_str().unwrap()], &[]);
        assert!(!ok && said.contains(words), "{said}");
    }
    let history = prom(
        &["sub", "orders", "--from", "earliest", "--count", "2", "--url", &url, "--token", &all, "--ca-file", &ca],
        &[],
        &folder.0,
    );
    assert!(history.status.success(), "{history:?}");
    let (status, _, log) = hub.terminate();
    assert!(status.success(), "{log}");
    assert!(log.contains("tls=true"), "{log}");
}

#[test]
fn half_of_a_pair_two_places_and_nothing_are_refused_by_their_names() {
    let (folder, _, own) = trust("tls-refused");
    let [cert, key] = [&own.cert, &own.key].map(|path| path.to_str().unwrap());
    let file = folder.0.join("prom.toml");
    std::fs::write(&file, format!("[ops_tls]\ncert_file = {cert:?}\n")).unwrap();
    let file = file.to_str().unwrap();
    for (environment, words) in [
        (&[("TLS_CERT_FILE", cert)][..], "TLS_CERT_FILE is set without TLS_KEY_FILE"),
        (&[("TLS_KEY_FILE", key)], "TLS_KEY_FILE is set without TLS_CERT_FILE"),
        (&[("PROM_CONFIG", file)], "OPS_TLS_CERT_FILE is set without OPS_TLS_KEY_FILE"),
        (
            &[("PROM_CONFIG", file), ("OPS_TLS_CERT_FILE", cert), ("OPS_TLS_KEY_FILE", key)],
            "OPS_TLS_CERT_FILE and ops_tls.cert_file of the configuration file are both set",
        ),
        (&[("OPS_TLS_CLIENT_CA_FILE", cert)], "OPS_TLS_CLIENT_CA_FILE is set without OPS_TLS_CERT_FILE"),
        (&[("TLS_CERT_FILE", ""), ("TLS_KEY_FILE", key)], "TLS_CERT_FILE"),
        (&[("TLS_CERT_FILE", cert), ("TLS_KEY_FILE", cert)], "holds no private key"),
        (&[("BIND", "0.0.0.0")], "set TLS_CERT_FILE and TLS_KEY_FILE, or put TLS in front and pass --allow-plaintext"),
    ] {
        let mut environment = environment.to_vec();
        environment.extend([("JWT_SECRET", prom_testkit::SECRET), ("WS_PORT", "0"), ("OPS_PORT", "0")]);
        let output = prom(&["hub"], &environment, &folder.0);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(words), "{environment:?} says {said}");
    }
}

#[test]
fn the_links_of_dev_are_those_of_tls_and_its_heartbeat_goes_over_it() {
    let (folder, authority, own) = trust("tls-dev");
    let [cert, key, ca] = [&own.cert, &own.key, &authority.cert].map(|path| path.to_str().unwrap());
    let environment = [
        ("TLS_CERT_FILE", cert),
        ("TLS_KEY_FILE", key),
        ("OPS_TLS_CERT_FILE", cert),
        ("OPS_TLS_KEY_FILE", key),
        ("PROM_CA_FILE", ca),
        ("WS_PORT", "0"),
        ("OPS_PORT", "0"),
    ];
    let mut dev = crate::common::start(&["dev"], &environment, &folder.0);
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(dev.stdout.take().unwrap()));
    let mut told = |words: &str| {
        let line = lines.by_ref().map(|line| line.unwrap()).find(|line| line.contains(words)).unwrap();
        line.split_whitespace().last().unwrap().to_owned()
    };
    let page = told("Live processes");
    assert!(page.starts_with("https://127.0.0.1:"), "{page}");
    let url = told("WebSocket");
    assert!(url.starts_with("wss://127.0.0.1:"), "{url}");
    assert!(told("For operators").starts_with("https://127.0.0.1:"));
    let beat = prom(
        &["sub", "heartbeat.received", "--count", "1", "--url", &url, "--from", "earliest"],
        &environment,
        &folder.0,
    );
    dev.kill().unwrap();
    dev.wait().unwrap();
    assert!(beat.status.success(), "{beat:?}");
}

#[test]
fn operators_show_the_hub_their_certificate() {
    let (folder, authority, own) = trust("tls-ops");
    let admin = authority.issue("admin");
    let [cert, key, ca] = [&own.cert, &own.key, &authority.cert].map(|path| path.to_str().unwrap());
    let environment = [
        ("OPS_TLS_CERT_FILE", cert),
        ("OPS_TLS_KEY_FILE", key),
        ("OPS_TLS_CLIENT_CA_FILE", ca),
        ("WS_PORT", "0"),
        ("OPS_PORT", "0"),
    ];
    let mut dev = crate::common::start(&["dev", "--no-heartbeat"], &environment, &folder.0);
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(dev.stdout.take().unwrap()));
    let line = lines.by_ref().map(|line| line.unwrap()).find(|line| line.contains("For operators")).unwrap();
    let ops = line.split_whitespace().last().unwrap().trim_end_matches("/groups").to_owned();
    let ask = |environment: &[(&str, &str)]| {
        let environment = [&[("PROM_OPS_URL", &*ops)][..], environment].concat();
        let output = prom(&["topic", "delete", "not.there"], &environment, &folder.0);
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let [admin_cert, admin_key] = [&admin.cert, &admin.key].map(|path| path.to_str().unwrap());
    let shown = [("PROM_OPS_CERT_FILE", admin_cert), ("PROM_OPS_KEY_FILE", admin_key)];
    let (all, nobody) = ([&[("PROM_CA_FILE", ca)][..], &shown].concat(), ask(&[("PROM_CA_FILE", ca)]));
    let mixed = [("PROM_CA_FILE", ca), ("PROM_OPS_CERT_FILE", admin_cert), ("PROM_OPS_KEY_FILE", key)];
    let said = [ask(&all), ask(&shown), ask(&mixed), ask(&[("PROM_CA_FILE", admin_key)])];
    dev.kill().unwrap();
    dev.wait().unwrap();
    assert_eq!(said[0], "prom: there is no topic not.there\n");
    assert!(said[1].contains("PROM_CA_FILE says whose certificate to trust"), "{}", said[1]);
    assert!(said[2].contains("own.key is not the key of"), "{}", said[2]);
    assert!(said[3].contains("admin.key holds no certificate"), "{}", said[3]);
    assert!(nobody.contains("--ops-cert-file and --ops-key-file"), "{nobody}");
}
