//! What `prom` refuses, with what words, and that it says so instead of hanging or panicking.

use std::net::TcpListener;

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
    refused(&["hub"], &[SECRET, ("WS_TOKEN", "x")], &["JWT_SECRET and WS_TOKEN are both set"]);
}

/// What is set to nothing is not set, as compose files do it.
#[test]
fn empty_variables_count_as_absent() {
    refused(&["hub"], &[("JWT_SECRET", ""), ("WS_TOKEN", "")], &["no way to check tokens"]);
    refused(&["hub"], &[("JWT_SECRET", "short"), ("WS_TOKEN", "")], &["JWT_SECRET is 5 bytes long"]);
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
fn what_this_version_does_not_have_is_said() {
    refused(&["hub"], &[SECRET, ("JWT_JWKS_URL", "https://a")], &["JWT_JWKS_URL", "does not have"]);
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
    refused(&["token", "mint", "--ttl", "never"], &[SECRET], &["--ttl"]);
    refused(&["token", "mint"], &[], &["JWT_SECRET", "prom dev"]);
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
