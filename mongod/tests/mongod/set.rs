//! Sets that are started from Rust.

use std::path::Path;

use mongodb::{
    Client,
    bson::{Document, doc},
    error::ErrorKind,
};
use prom_mongod::{Credentials, Error, Options, ReplicaSet, fresh_database, shared};

use crate::{gone, transact, until};

async fn count(client: &Client, database: &str) -> u64 {
    client.database(database).collection::<Document>("things").count_documents(doc! {}).await.unwrap()
}

fn kept(dir: &Path) -> Options {
    Options { dir: Some(dir.to_owned()), ..Options::default() }
}

#[tokio::test]
async fn one_node_takes_transactions_and_leaves_nothing() {
    let set = ReplicaSet::start(Options::default()).await.unwrap();
    transact(&set.client().await.unwrap(), "test").await.unwrap();
    let (dir, hosts) = (set.dir().to_owned(), set.hosts().to_owned());
    assert!(dir.is_dir());
    drop(set);
    assert!(!dir.exists(), "{} is still there", dir.display());
    gone(&hosts).await;
}

#[tokio::test]
async fn three_nodes_go_on_without_their_primary() {
    let set = ReplicaSet::start(Options { nodes: 3, ..Options::default() }).await.unwrap();
    let client = set.client().await.unwrap();
    transact(&client, "test").await.unwrap();

    let killed = set.primary().await.unwrap();
    set.kill(killed).unwrap();
    let stopped = set.primary().await.unwrap();
    assert_ne!(stopped, killed);
    set.start_again(killed).await.unwrap();
    let up = set.client_of(killed).await.unwrap();
    until("the killed node to follow again", async || {
        up.database("admin")
            .run_command(doc! { "hello": 1 })
            .await
            .is_ok_and(|said| said.get_bool("secondary").is_ok_and(|is| is))
    })
    .await;

    set.stop(stopped).unwrap();
    assert_ne!(set.primary().await.unwrap(), stopped);
    until("a write", async || transact(&client, "test").await.is_ok()).await;
    set.resume(stopped).unwrap();
    assert!(count(&client, "test").await >= 2);
    set.shutdown().await.unwrap();
}

#[tokio::test]
async fn goes_on_in_a_folder_that_is_kept_at_the_same_address() {
    let dir = tempfile::tempdir().unwrap();
    let set = ReplicaSet::start(kept(dir.path())).await.unwrap();
    let url = set.url().to_owned();
    transact(&set.client().await.unwrap(), "test").await.unwrap();
    set.shutdown().await.unwrap();

    let set = ReplicaSet::start(kept(dir.path())).await.unwrap();
    assert_eq!(set.url(), url);
    let client = set.client().await.unwrap();
    transact(&client, "test").await.unwrap();
    assert_eq!(count(&client, "test").await, 2);
}

/// Something else that has the address, and understands nothing of what it is told, until this process ends.
fn take(host: &str) {
    let listener = std::net::TcpListener::bind(host).unwrap();
    std::thread::spawn(move || listener.incoming().for_each(drop));
}

#[tokio::test]
async fn goes_on_at_other_addresses_when_somebody_took_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { nodes: 3, ..kept(dir.path()) };
    let set = ReplicaSet::start(options.clone()).await.unwrap();
    let before = set.hosts().to_owned();
    transact(&set.client().await.unwrap(), "test").await.unwrap();
    set.shutdown().await.unwrap();

    before.iter().for_each(|host| take(host));
    let set = ReplicaSet::start(options).await.unwrap();
    assert!(set.hosts().iter().all(|host| !before.contains(host)), "{}", set.url());
    let client = set.client().await.unwrap();
    transact(&client, "test").await.unwrap();
    assert_eq!(count(&client, "test").await, 2);
}

#[tokio::test]
async fn goes_on_after_it_was_dropped_without_a_good_end() {
    let dir = tempfile::tempdir().unwrap();
    let set = ReplicaSet::start(kept(dir.path())).await.unwrap();
    transact(&set.client().await.unwrap(), "test").await.unwrap();
    drop(set);
    let set = ReplicaSet::start(kept(dir.path())).await.unwrap();
    assert_eq!(count(&set.client().await.unwrap(), "test").await, 1);
}

#[tokio::test]
async fn refuses_a_folder_that_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let _set = ReplicaSet::start(kept(dir.path())).await.unwrap();
    let error = ReplicaSet::start(kept(dir.path())).await.unwrap_err();
    assert!(matches!(error, Error::InUse(_)), "{error}");
}

#[tokio::test]
async fn refuses_another_number_of_nodes_in_a_folder_that_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    ReplicaSet::start(kept(dir.path())).await.unwrap().shutdown().await.unwrap();
    let error = ReplicaSet::start(Options { nodes: 3, ..kept(dir.path()) }).await.unwrap_err();
    assert_eq!(error.to_string(), "nodes is 3, but the folder has a set of 1");
}

#[tokio::test]
async fn shows_the_log_of_a_mongod_that_does_not_start() {
    let options = Options { args: vec!["--no-such-option".into()], ..Options::default() };
    let error = ReplicaSet::start(options).await.unwrap_err().to_string();
    assert!(error.contains("ended by itself") && error.contains("no-such-option"), "{error}");
}

#[tokio::test]
async fn says_that_a_program_cannot_be_run() {
    let options = Options { mongod: Some("/no/such/mongod".into()), ..Options::default() };
    let error = ReplicaSet::start(options).await.unwrap_err().to_string();
    assert!(error.contains("/no/such/mongod"), "{error}");
}

#[tokio::test]
async fn a_standalone_server_takes_writes_and_no_transactions() {
    let set = ReplicaSet::start(Options { standalone: true, ..Options::default() }).await.unwrap();
    let client = set.client().await.unwrap();
    client.database("test").collection("things").insert_one(doc! { "a": 1 }).await.unwrap();
    let error = transact(&client, "test").await.unwrap_err();
    assert_eq!(count(&client, "test").await, 1, "{error}");
}

async fn with_access_control(options: Options) {
    let credentials = Credentials { user: "prom".into(), password: "p@ss:w/rd".into() };
    let options = Options { credentials: Some(credentials), ..options };
    let set = ReplicaSet::start(options.clone()).await.unwrap();
    let things = |client: &Client| client.database("test").collection::<Document>("things");
    things(&set.client().await.unwrap()).insert_one(doc! { "a": 1 }).await.unwrap();

    let (login, rest) = set.url().split_once('@').unwrap();
    let stranger = format!("mongodb://{}", rest.replace("authSource=admin", ""));
    let stranger = Client::with_uri_str(stranger.trim_end_matches(['?', '&'])).await.unwrap();
    let error = things(&stranger).insert_one(doc! { "a": 1 }).await.unwrap_err();
    assert!(matches!(&*error.kind, ErrorKind::Command(error) if error.code_name == "Unauthorized"), "{error}");
    let impostor = set.url().replace(login, "mongodb://prom:wrong");
    assert!(things(&Client::with_uri_str(impostor).await.unwrap()).find_one(doc! {}).await.is_err());
    set.shutdown().await.unwrap();

    // And again, when there is a user.
    let set = ReplicaSet::start(options).await.unwrap();
    assert_eq!(count(&set.client().await.unwrap(), "test").await, 1);
}

#[tokio::test]
async fn a_replica_set_with_access_control_lets_its_user_in_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    with_access_control(kept(dir.path())).await;
}

#[tokio::test]
async fn a_standalone_server_with_access_control_lets_its_user_in_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    with_access_control(Options { standalone: true, ..kept(dir.path()) }).await;
}

#[test]
fn tests_with_runtimes_of_their_own_share_one_set() {
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let url = runtime().block_on(shared()).unwrap();
    assert_eq!(runtime().block_on(shared()).unwrap(), url);
    let databases = ["share", "share"].map(fresh_database);
    assert_ne!(databases[0], databases[1]);
    runtime().block_on(async {
        let client = Client::with_uri_str(url).await.unwrap();
        transact(&client, &databases[0]).await.unwrap();
        assert_eq!(count(&client, &databases[1]).await, 0);
    });
}
