//! `prom outbox` on the rows of a real MongoDB, as an operator would use it.

use std::{
    fs::File,
    io::{Read, Write},
    net::TcpListener,
    process::Stdio,
    time::{Duration, Instant},
};

use mongodb::{
    Client, Collection,
    bson::{DateTime, Document, doc, oid::ObjectId},
};
use prom_mongod::{fresh_database, shared};
use prom_outbox::MongoOutbox;
use prom_testkit::until;
use serde_json::Value;

use crate::common::{Folder, hub::Hub};

/// A collection of rows in a database of this test's own, and how to run `prom outbox` on it.
struct Shop {
    folder: Folder,
    url: String,
    rows: Collection<Document>,
}

impl Shop {
    async fn new(label: &str) -> Self {
        let set = shared().await.unwrap();
        let database = fresh_database(label);
        let rows = Client::with_uri_str(set).await.unwrap().database(&database).collection("outbox");
        let url = set.replacen("/?", &format!("/{database}?"), 1);
        assert!(url.contains(&database), "{url}");
        Self { folder: Folder::new(&format!("outbox-{label}")), url, rows }
    }

    /// With rows `a` to `e`: two that are pending, the first with a key, one sent, one parked, one claimed.
    async fn filled(label: &str) -> Self {
        let shop = Self::new(label).await;
        MongoOutbox::new(shop.rows.clone()).ensure_indexes().await.unwrap();
        let row = |id: &str, topic: &str, status: &str, ts: i64| {
            let ts = DateTime::from_millis(ts);
            doc! { "_id": id, "topic": topic, "payload": { "of": id }, "status": status, "ts": ts, "attempts": 0 }
        };
        let with = |mut row: Document, more: Document| {
            row.extend(more);
            row
        };
        let rows = [
            with(row("a", "orders.placed", "pending", 1_000), doc! { "key": "k", "headers": { "trace": "4bf9" } }),
            row("b", "orders.paid", "pending", 2_000),
            row("c", "orders.placed", "sent", 3_000),
            with(row("d", "orders.placed", "error", 4_000), doc! { "attempts": 10, "last_err": "no\x1b[2Jroom" }),
            with(
                row("e", "orders.paid", "claimed", 5_000),
                doc! { "claimed_by": "drainer-1", "lease_until": DateTime::from_millis(DateTime::now().timestamp_millis() + 600_000) },
            ),
        ];
        shop.rows.insert_many(rows).await.unwrap();
        shop
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        crate::common::command(&[&["outbox"], args].concat(), &[("MONGO_URL", &self.url)], &self.folder.0)
    }

    /// Whether it succeeded, and what it said to whom.
    fn prom(&self, args: &[&str]) -> (bool, String, String) {
        let child = self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = crate::common::finish(child);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.success(), text(output.stdout), text(output.stderr))
    }

    fn does(&self, args: &[&str]) -> String {
        let (ok, out, err) = self.prom(args);
        assert!(ok, "{args:?}: {out}{err}");
        out
    }

    /// What it says instead of doing that.
    fn refuses(&self, args: &[&str]) -> String {
        let (ok, out, err) = self.prom(args);
        assert!(!ok, "{args:?} succeeded: {out}{err}");
        err
    }

    /// The ids that `list` shows with these arguments.
    fn listed(&self, args: &[&str]) -> Vec<String> {
        let out = self.does(&[&["list", "--json"], args].concat());
        let id = |line| serde_json::from_str::<Value>(line).unwrap()["_id"].as_str().unwrap().to_owned();
        out.lines().map(id).collect()
    }

    async fn status(&self, id: &str) -> Option<String> {
        let row = self.rows.find_one(doc! { "_id": id }).await.unwrap();
        row.map(|row| row.get_str("status").unwrap().to_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn list_shows_the_rows_that_match_oldest_first() {
    let shop = Shop::filled("list").await;
    assert_eq!(shop.listed(&[]), ["a", "b", "c", "d", "e"]);
    assert_eq!(shop.listed(&["--status", "pending"]), ["a", "b"]);
    assert_eq!(shop.listed(&["--topic", "orders.placed"]), ["a", "c", "d"]);
    assert_eq!(shop.listed(&["--topic", "orders.placed", "--status", "sent"]), ["c"]);
    assert_eq!(shop.listed(&["--key", "k"]), ["a"]);
    let (ok, out, err) = shop.prom(&["list", "--limit", "2"]);
    assert!(ok && out.lines().count() == 2 && err.contains("there are more"), "{out}{err}");
    let (_, out, err) = shop.prom(&["list"]);
    assert!(out.lines().count() == 5 && err.is_empty(), "{out}{err}");
    let parked = out.lines().find(|line| line.starts_with('d')).unwrap();
    for part in ["error", "1970-01-01T00:00:04.000Z", "orders.placed", "tried 10 times", "no·[2Jroom"] {
        assert!(parked.contains(part), "{part} is not in {parked}");
    }
    assert!(shop.refuses(&["list", "--topic", "orders.*"]).contains("no row of outbox matches"));
    assert!(shop.refuses(&["list", "--status", "done"]).contains("pending, claimed, sent or error"));
}

#[tokio::test(flavor = "multi_thread")]
async fn show_prints_the_whole_row() {
    let shop = Shop::filled("show").await;
    let out = shop.does(&["show", "a"]);
    for part in ["_id          a", "key          k", "header       trace: 4bf9", r#"payload      {"of":"a"}"#] {
        assert!(out.contains(part), "{part} is not in {out}");
    }
    assert!(!shop.does(&["show", "e"]).contains("when it was sent"), "it is claimed");
    let row: Value = serde_json::from_str(&shop.does(&["show", "d", "--json"])).unwrap();
    assert_eq!((&row["attempts"], &row["payload"]["of"]), (&10.into(), &"d".into()), "{row}");
    assert!(shop.refuses(&["show", "z"]).contains("there is no row z in outbox"));
    // What a service in another language writes: an id that is no string.
    let id = ObjectId::new();
    shop.rows.insert_one(doc! { "_id": id, "topic": "t", "payload": 7 }).await.unwrap();
    assert!(shop.does(&["show", &id.to_hex()]).contains("payload      7"));
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_makes_parked_rows_pending_and_nothing_else() {
    let shop = Shop::filled("retry").await;
    assert!(shop.refuses(&["retry"]).contains("--all"), "everything takes a word");
    assert!(shop.refuses(&["retry", "--all", "--key", "k"]).contains("--all is every row"));
    assert!(shop.refuses(&["retry", "--status", "sent"]).contains("only parked rows"));
    assert!(shop.refuses(&["retry", "--key", "k"]).contains("no parked row of outbox matches"));
    assert!(shop.refuses(&["retry", "c"]).contains("row c is sent"));
    assert!(shop.refuses(&["retry", "d", "--topic", "orders.paid"]).contains("row d is not what"));
    assert_eq!(shop.status("d").await.unwrap(), "error");
    // What can be done is done, and what cannot makes it a failure.
    let (ok, out, err) = shop.prom(&["retry", "d", "z"]);
    assert!(!ok && out == "1 row is pending again\n" && err.contains("there is no row z"), "{out}{err}");
    let row = shop.rows.find_one(doc! { "_id": "d" }).await.unwrap().unwrap();
    assert_eq!((row.get_str("status").unwrap(), row.get_i32("attempts").unwrap()), ("pending", 0));
    assert_eq!(shop.status("c").await.unwrap(), "sent");
    shop.rows.update_many(doc! {}, doc! { "$set": { "status": "error" } }).await.unwrap();
    assert_eq!(shop.does(&["retry", "--topic", "orders.paid", "--json"]), "{\"retried\":2}\n");
    assert_eq!(shop.does(&["retry", "--status", "error"]), "3 rows are pending again\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn drop_says_what_would_go_and_deletes_it_on_a_word() {
    let shop = Shop::filled("drop").await;
    assert!(shop.refuses(&["drop", "--yes"]).contains("--all"), "everything takes a word");
    let said = shop.refuses(&["drop", "--all"]);
    for part in ["4 rows of outbox (2 pending, 1 sent, 1 error)", "never published", "--yes"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert_eq!(shop.listed(&[]).len(), 5, "nothing is deleted yet");
    assert!(shop.refuses(&["drop", "e", "--yes"]).contains("row e is claimed"));
    assert!(shop.refuses(&["drop", "--status", "claimed", "--yes"]).contains("1 of them; those cannot be deleted"));
    assert!(shop.refuses(&["drop", "z", "--yes"]).contains("there is no row z"));
    assert!(shop.refuses(&["drop", "--topic", "z", "--yes"]).contains("no row of outbox matches"));
    assert_eq!(shop.listed(&[]).len(), 5);
    assert_eq!(shop.does(&["drop", "a", "--yes"]), "1 row is deleted\n");
    assert_eq!(shop.listed(&[]), ["b", "c", "d", "e"]);
    assert_eq!(shop.does(&["drop", "--status", "error", "--yes", "--json"]), "{\"claimed\":0,\"dropped\":1}\n");
    assert_eq!(shop.does(&["drop", "--all", "--yes"]), "2 rows are deleted; 1 stays, which a drainer has\n");
    assert_eq!(shop.listed(&[]), ["e"]);
}

/// Runs `prom outbox` with a terminal for its input, on which `answer` is typed; what it printed.
fn answered(shop: &Shop, args: &[&str], answer: &str) -> (bool, String) {
    use rustix::pty;

    let master = pty::openpt(pty::OpenptFlags::RDWR | pty::OpenptFlags::NOCTTY).unwrap();
    pty::grantpt(&master).unwrap();
    pty::unlockpt(&master).unwrap();
    let name = pty::ptsname(&master, Vec::new()).unwrap();
    let terminal = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let mut command = shop.command(args);
    let mut child = command.stdin(terminal).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    // Waits in the terminal until it is read.
    File::from(master.try_clone().unwrap()).write_all(answer.as_bytes()).unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (child.wait().unwrap().success(), said)
}

#[tokio::test(flavor = "multi_thread")]
async fn drop_asks_on_a_terminal() {
    let shop = Shop::filled("asks").await;
    for no in ["\n", "n\n", "what?\n"] {
        let (ok, said) = answered(&shop, &["drop", "d"], no);
        assert!(
            !ok && said.contains("Delete 1 row of outbox (1 error)") && said.contains("nothing is deleted"),
            "{said}"
        );
        assert_eq!(shop.status("d").await.unwrap(), "error");
    }
    let (ok, said) = answered(&shop, &["drop", "d"], "y\n");
    assert!(ok, "{said}");
    assert_eq!(shop.status("d").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_count_rows_and_say_how_far_behind_it_is() {
    let shop = Shop::filled("stats").await;
    let out = shop.does(&["stats"]);
    for part in [
        "outbox at mongodb://127.0.0.1:",
        "pending  2; the oldest is ",
        "claimed  1",
        "sent     1",
        "error    1, parked",
    ] {
        assert!(out.contains(part), "{part} is not in {out}");
    }
    let stats: Value = serde_json::from_str(&shop.does(&["stats", "--json"])).unwrap();
    assert_eq!((&stats["name"], &stats["pending"], &stats["stuck"]), (&"outbox".into(), &2.into(), &0.into()));
    assert!(stats["lag_ms"].as_u64().unwrap() > 1_000_000_000, "{stats}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_that_nothing_drains_is_told_from_one_that_is_not_there() {
    let shop = Shop::new("bare").await;
    let database = shop.rows.namespace().db;
    for command in [&["list"][..], &["show", "a"], &["stats"], &["retry", "--all"], &["drop", "--all", "--yes"]] {
        let said = shop.refuses(command);
        assert!(
            said.contains(&format!("database {database} at")) && said.contains("has no collection outbox"),
            "{said}"
        );
    }
    shop.rows.insert_one(doc! { "_id": "a", "topic": "t", "payload": 1 }).await.unwrap();
    assert!(shop.refuses(&["stats"]).contains("nothing has drained it"));
    assert_eq!(shop.listed(&["--status", "pending"]), ["a"]);
    // By its full name, in whatever database the URL names.
    let place = format!("{database}.outbox");
    assert_eq!(shop.listed(&["--outbox", &place]), ["a"]);
    assert!(shop.refuses(&["list", "--outbox", "nowhere.outbox"]).contains("database nowhere at"));
    assert!(shop.refuses(&["list", "--outbox", "a b"]).contains("`a b` is no collection"));
    assert!(shop.refuses(&["list", "--outbox", "a,b"]).contains("names 2 outboxes"));
}

#[test]
fn a_mongodb_that_is_not_there_is_said_without_its_password() {
    let folder = Folder::new("outbox-nowhere");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("mongodb://ops:secret@127.0.0.1:{port}/shop");
    let since = Instant::now();
    let output = crate::common::prom(&["outbox", "list"], &[("MONGO_URL", &url)], &folder.0);
    assert!(since.elapsed() < Duration::from_secs(60), "{:?}", since.elapsed());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains(&format!("mongodb://ops:***@127.0.0.1:{port}/shop")), "{said}");
    assert!(!said.contains("secret"), "{said}");
    let output = crate::common::prom(&["outbox", "list"], &[], &folder.0);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("MONGO_URL is not set"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_row_is_published_once_it_is_mended_and_retried() {
    let shop = Shop::new("poison").await;
    shop.rows.insert_one(doc! { "_id": "bad", "topic": "no topic", "payload": { "n": 1 } }).await.unwrap();
    let data = shop.folder.0.join("data");
    let hub = Hub::start(&data, &[("MONGO_URL", &shop.url)]);
    becomes(&shop, "bad", "error").await;
    let said = shop.does(&["list", "--status", "error"]);
    assert!(said.contains("topic"), "{said}");

    let mended = doc! { "$set": { "topic": "orders.placed" } };
    shop.rows.update_one(doc! { "_id": "bad" }, mended).await.unwrap();
    assert_eq!(shop.does(&["retry", "bad"]), "1 row is pending again\n");
    becomes(&shop, "bad", "sent").await;
    let events = hub.export("orders.placed");
    let event: Value = serde_json::from_str(&events).unwrap();
    assert_eq!((&event["id"], &event["payload"]["n"]), (&"bad".into(), &1.into()), "{event}");
}

async fn becomes(shop: &Shop, id: &str, wanted: &str) {
    let row = doc! { "_id": id, "status": wanted };
    let is = async || shop.rows.find_one(row.clone()).await.unwrap().is_some();
    until(&format!("row {id} to become {wanted}"), is).await;
}
