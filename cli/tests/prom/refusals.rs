//! What `prom` refuses, with what words, and that it says so instead of hanging or panicking.

use std::{fs, net::TcpListener};

use crate::common::{Folder, prom};

fn refused(args: &[&str], environment: &[(&str, &str)], expected: &[&str]) {
    let folder = Folder::new(&format!(
        "{:x}",
        args.iter().chain(expected).flat_map(|s| s.bytes()).fold(7_u64, |h, b| h.wrapping_mul(31) + u64::from(b))
    ));
    let output = prom(args, environment, &folder.0);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{args:?} succeeded");
    assert!(!text.contains("panicked"), "{text}");
    for part in expected {
        assert!(text.contains(part), "{args:?} says\n{text}\nand not {part:?}");
    }
}

const SECRET: (&str, &str) = ("JWT_SECRET", "0123456789abcdef0123456789abcdef");

#[test]
fn a_hub_without_auth_says_what_to_set() {
    refused(&["hub"], &[], &["JWT_SECRET", "WS_TOKEN", "prom dev"]);
}

#[test]
fn a_short_secret_is_refused() {
    refused(&["hub"], &[("JWT_SECRET", "short")], &["JWT_SECRET is 5 bytes long", "32"]);
    refused(&["token", "mint"], &[("JWT_SECRET", "short")], &["JWT_SECRET is 5 bytes long"]);
}

#[test]
fn two_ways_to_check_tokens_are_refused() {
    refused(&["hub"], &[SECRET, ("WS_TOKEN", "try-me")], &["JWT_SECRET and WS_TOKEN are both set"]);
    for (name, value) in
        [("JWT_JWKS_URL", "https://a/keys"), ("JWT_AUD", "hub"), ("JWT_ISS", "us"), ("JWT_MAX_LIFETIME", "1h")]
    {
        let both = format!("{name} and WS_TOKEN are both set");
        refused(&["hub"], &[(name, value), ("WS_TOKEN", "try-me")], &[&both]);
    }
}

/// `JWT_AUD=""` switched the check off without a word. A variable that came out empty is a mistake to be told of, not a
/// wish.
#[test]
fn what_is_set_but_empty_is_refused_by_its_name() {
    for name in ["JWT_AUD", "JWT_ISS", "JWT_JWKS_URL", "JWT_SECRET_PREVIOUS", "WS_TOKEN", "JWT_MAX_LIFETIME"] {
        refused(&["hub"], &[SECRET, (name, "")], &[name, "is set but empty"]);
    }
    refused(&["hub"], &[("JWT_SECRET", "")], &["JWT_SECRET is set but empty"]);
    refused(&["hub"], &[SECRET, ("JWT_ISS", "us,,them")], &["JWT_ISS is set but empty"]);
    refused(&["token", "mint"], &[("JWT_SECRET", "")], &["JWT_SECRET is set but empty"]);
    // Open, or to another place, without a word.
    let empty = |name: &'static str| format!("{name} is set but empty");
    for name in [
        "OPS_TOKEN",
        "OPS_TOKEN_FILE",
        "PROM_OPS_AUTH",
        "PROM_ORIGINS",
        "REVOCATIONS_FILE",
        "MONGO_URL",
        "TLS_CERT_FILE",
        "TLS_KEY_FILE",
        "OPS_TLS_CERT_FILE",
        "OPS_TLS_KEY_FILE",
        "OPS_TLS_CLIENT_CA_FILE",
    ] {
        refused(
            &["hub", "--port", "0", "--ops-port", "0", "--bind", "0.0.0.0"],
            &[SECRET, (name, "")],
            &[&empty(name)],
        );
    }
    for origins in [",", "https://a.example,,https://b.example", " "] {
        refused(&["hub", "--bind", "0.0.0.0"], &[SECRET, ("PROM_ORIGINS", origins)], &[&empty("PROM_ORIGINS")]);
    }
    refused(&["dev", "--bind", "0.0.0.0"], &[("OPS_TOKEN", "")], &["OPS_TOKEN is set but empty"]);
    refused(&["dev", "--bind", "0.0.0.0"], &[("MONGO_URL", "")], &["MONGO_URL is set but empty"]);
    refused(&["dev", "--bind", "0.0.0.0"], &[("PROM_CA_FILE", "")], &["PROM_CA_FILE is set but empty"]);
    let nowhere = ["--url", "ws://127.0.0.1:9/ws", "--timeout", "1s"];
    refused(&[&["pub", "a.b", "1"], &nowhere[..]].concat(), &[("PROM_TOKEN", "")], &["PROM_TOKEN is set but empty"]);
    let token = ("PROM_TOKEN", "x");
    let args = [&["pub", "a.b", "1"], &nowhere[..]].concat();
    refused(&args, &[token, ("PROM_CA_FILE", "")], &["PROM_CA_FILE is set but empty"]);
    for name in ["OPS_TOKEN", "PROM_CA_FILE", "PROM_OPS_CERT_FILE", "PROM_OPS_KEY_FILE"] {
        let args = ["topic", "delete", "a.b", "--ops-url", "https://127.0.0.1:9", "--timeout", "1s"];
        let others = ["PROM_OPS_CERT_FILE", "PROM_OPS_KEY_FILE"].iter().filter(|other| **other != name);
        let environment: Vec<_> = others.map(|other| (*other, "x")).chain([(name, "")]).collect();
        refused(&args, &environment, &[&empty(name)]);
    }
}

#[test]
fn a_static_token_has_a_least_length() {
    refused(&["hub"], &[("WS_TOKEN", "12345")], &["WS_TOKEN is 5 bytes long", "at least 6"]);
}

#[test]
fn a_secret_has_one_place_and_its_file_is_read_whole() {
    let folder = Folder::new("secret-files");
    let file = |name: &str, text: &[u8]| {
        let path = folder.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let good = file("good", b"0123456789abcdef0123456789abcdef\n");
    refused(&["hub"], &[SECRET, ("JWT_SECRET_FILE", &good)], &["JWT_SECRET and JWT_SECRET_FILE are both set"]);
    refused(
        &["hub"],
        &[SECRET, ("JWT_SECRET_PREVIOUS", "x"), ("JWT_SECRET_PREVIOUS_FILE", &good)],
        &["JWT_SECRET_PREVIOUS and JWT_SECRET_PREVIOUS_FILE are both set"],
    );
    let both = [("WS_TOKEN", "try-me"), ("WS_TOKEN_FILE", &good)];
    refused(&["hub"], &both, &["WS_TOKEN and WS_TOKEN_FILE are both set"]);
    // One line break is cut, two are somebody's secret: 5 bytes and one more.
    let short = file("short", b"12345\r\n");
    refused(&["hub"], &[("JWT_SECRET_FILE", &short)], &["JWT_SECRET is 5 bytes long"]);
    let two = file("two", b"12345\n\n");
    refused(&["hub"], &[("JWT_SECRET_FILE", &two)], &["JWT_SECRET is 6 bytes long"]);
    for (name, text, words) in [
        ("empty", &b"\n"[..], "it is empty"),
        ("binary", b"\xff\xfe\x00", "UTF-8"),
        ("large", &[b'x'; 70_000], "larger than 65536 bytes"),
    ] {
        let path = file(name, text);
        refused(&["hub"], &[("JWT_SECRET_FILE", &path)], &["JWT_SECRET_FILE", &path, words]);
    }
    refused(&["hub"], &[("WS_TOKEN_FILE", "/no/such/file")], &["WS_TOKEN_FILE /no/such/file cannot be used"]);
    refused(&["hub"], &[("JWT_SECRET_PREVIOUS_FILE", &good)], &["JWT_SECRET_PREVIOUS is set without JWT_SECRET"]);
    let both = [SECRET, ("OPS_TOKEN", "0123456789abcdef"), ("OPS_TOKEN_FILE", &good)];
    refused(&["hub"], &both, &["OPS_TOKEN and OPS_TOKEN_FILE are both set"]);
    refused(&["hub"], &[SECRET, ("OPS_TOKEN_FILE", &short)], &["OPS_TOKEN is 5 bytes long"]);
    let none = [SECRET, ("OPS_TOKEN_FILE", "/no/such/file")];
    refused(&["hub"], &none, &["OPS_TOKEN_FILE /no/such/file cannot be used"]);
}

#[test]
fn a_secret_on_the_command_line_is_warned_of() {
    let warned = ["is readable by every user of this machine", "--allow-plaintext"];
    let wide = ["--bind", "0.0.0.0", "--port", "0"];
    for flag in ["--jwt-secret", "--jwt-secret-previous"] {
        let args = [&["hub", flag, SECRET.1], &wide[..]].concat();
        let environment = if flag == "--jwt-secret" { &[][..] } else { &[SECRET] };
        refused(&args, environment, &[&[flag], &warned[..]].concat());
    }
    refused(&[&["hub", "--ws-token", "try-me"], &wide[..]].concat(), &[], &[&["--ws-token"], &warned[..]].concat());
    let args = [&["hub", "--ops-token", "0123456789abcdef"], &wide[..]].concat();
    refused(&args, &[SECRET], &[&["--ops-token", "OPS_TOKEN_FILE"], &warned[..]].concat());
    let folder = Folder::new("no-warning");
    let environment = [SECRET, ("OPS_TOKEN", "0123456789abcdef")];
    let output = prom(&[&["hub"], &wide[..]].concat(), &environment, &folder.0);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("readable by every user"));
    let output = prom(&["token", "mint", "--jwt-secret", SECRET.1], &[], &folder.0);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("--jwt-secret is readable by every user"));
    // Clients, and a password in a URL.
    let nowhere = ["pub", "a", "1", "--url", "ws://127.0.0.1:1/ws", "--timeout", "100ms"];
    refused(&[&nowhere[..], &["--token", "try-me"]].concat(), &[], &["--token", "PROM_TOKEN_FILE", warned[0]]);
    let file = folder.0.join("token");
    fs::write(&file, "try-me\n").unwrap();
    let given = [("PROM_TOKEN_FILE", file.to_str().unwrap())];
    let output = prom(&nowhere, &given, &folder.0);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("readable by every user") && said.contains("cannot connect to"), "{said}");
    refused(&[&nowhere[..], &["--token", "try-me"]].concat(), &given, &["PROM_TOKEN and PROM_TOKEN_FILE are both set"]);
    let url = "mongodb://user:password@127.0.0.1:1/x?serverSelectionTimeoutMS=100";
    refused(&["outbox", "list", "--mongo-url", url], &[], &["--mongo-url", warned[0]]);
}

#[test]
fn a_key_set_that_anybody_on_the_way_could_change_is_refused() {
    for (url, words) in [
        ("http://login.example.com/keys", "must start with https://"),
        ("https://user:word@login.example.com/keys", "has a user in it"),
        ("login.example.com", "must start with https://"),
    ] {
        refused(&["hub"], &[("JWT_JWKS_URL", url)], &["JWT_JWKS_URL", words]);
    }
    let two = ("JWT_JWKS_URL", "https://a.example/keys,https://b.example/keys");
    refused(&["hub"], &[two], &["2 JWT_JWKS_URL with 0 JWT_ISS"]);
    refused(&["hub"], &[two, ("JWT_ISS", "a,a")], &["JWT_ISS names \"a\" twice"]);
    refused(&["hub"], &[SECRET, ("JWT_MAX_LIFETIME", "0s")], &["JWT_MAX_LIFETIME"]);
    refused(&["hub"], &[SECRET, ("JWT_MAX_LIFETIME", "soon")], &["--jwt-max-lifetime"]);
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    refused(&["hub", "--port", &port], &[SECRET], &[&port, "the port is in use", "WS_PORT"]);
    refused(&["dev", "--port", &port], &[], &[&port, "the port is in use"]);
}

#[test]
fn an_ops_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let expected = [&*port, "the port is in use", "OPS_PORT"];
    refused(&["hub", "--port", "0", "--ops-port", &port], &[SECRET], &expected);
    refused(&["dev", "--port", "0"], &[("OPS_PORT", &port)], &expected);
}

#[test]
fn a_wide_bind_needs_a_word() {
    refused(&["hub", "--bind", "0.0.0.0", "--port", "0"], &[SECRET], &["0.0.0.0", "--allow-plaintext"]);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    // A file stands where the folder should be: refused to everybody, root too.
    let folder = Folder::new("unwritable");
    let file = folder.0.join("file");
    std::fs::write(&file, "").unwrap();
    let data = file.join("data");
    refused(&["dev", "--port", "0", "--data", data.to_str().unwrap()], &[], &[data.to_str().unwrap(), "PROM_DATA"]);
}

#[test]
fn a_hub_has_one_store() {
    let both = [SECRET, ("MONGO_URL", "mongodb://127.0.0.1"), ("PROM_MEMORY_MB", "64")];
    refused(&["hub"], &both, &["MONGO_URL and PROM_MEMORY_MB are both set"]);
}

#[test]
fn a_mongodb_that_cannot_be_reached_is_told_without_its_password() {
    let folder = Folder::new("unreachable");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("mongodb://user:hush@{free}");
    let environment = [SECRET, ("MONGO_URL", url.as_str()), ("WS_PORT", "0"), ("OPS_PORT", "0")];
    let output = prom(&["hub"], &environment, &folder.0);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(&free.to_string()) && !said.contains("hush"), "{said}");
}

#[test]
fn a_scope_that_grants_nothing_is_refused() {
    refused(&["token", "mint", "--scope", "publish"], &[SECRET], &["would grant nothing"]);
    let long = "s".repeat(513);
    refused(&["token", "mint", "--subject", &long], &[SECRET], &["--subject must be 1 to 512 bytes", "no hub"]);
    refused(&["token", "mint", "--subject", "a\nb"], &[SECRET], &["--subject must not hold control characters"]);
    refused(&["token", "mint", "--ttl", "never"], &[SECRET], &["--ttl"]);
    refused(&["token", "mint"], &[], &["JWT_SECRET", "prom dev"]);
}

/// It was made, and no hub took it.
#[test]
fn a_token_that_no_hub_would_take_is_not_made() {
    refused(&["token", "mint", "--ttl", "401d"], &[SECRET], &["--ttl", "400d", "JWT_MAX_LIFETIME"]);
    refused(
        &["token", "mint", "--ttl", "2h"],
        &[SECRET, ("JWT_MAX_LIFETIME", "1h")],
        &["--ttl", "1h", "JWT_MAX_LIFETIME"],
    );
    refused(&["token", "mint"], &[SECRET, ("JWT_MAX_LIFETIME", "")], &["JWT_MAX_LIFETIME is set but empty"]);
    let folder = Folder::new("lifetime");
    for (args, environment) in [
        (&["--ttl", "400d"][..], &[SECRET][..]),
        (&["--ttl", "401d"], &[SECRET, ("JWT_MAX_LIFETIME", "401d")]),
        (&["--ttl", "401d", "--jwt-max-lifetime", "500d"], &[SECRET]),
    ] {
        let output = prom(&[&["token", "mint"], args].concat(), environment, &folder.0);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_hub_that_is_not_there_is_an_error_not_a_wait() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("ws://127.0.0.1:{free}/ws");
    refused(&["pub", "a.b", "1", "--url", &url, "--token", "x", "--timeout", "2s"], &[], &[&url]);
}

#[test]
fn bad_arguments_are_refused_before_anything_is_sent() {
    let common = ["--url", "ws://127.0.0.1:9/ws", "--token", "x"];
    let with = |args: &[&'static str]| args.iter().copied().chain(common).collect::<Vec<_>>();
    refused(&with(&["pub", "a..b", "1"]), &[], &["topic has an empty segment"]);
    refused(&with(&["pub", "a.b", "{nonsense"]), &[], &["not JSON"]);
    refused(&with(&["sub", "a b"]), &[], &["topic may hold only"]);
    refused(&with(&["watch", "a.*.**x"]), &[], &["wildcard"]);
}

#[test]
fn a_minted_token_is_a_jwt() {
    let folder = Folder::new("mint");
    let output = prom(&["token", "mint"], &[SECRET], &folder.0);
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim().split('.').count(), 3);
}
