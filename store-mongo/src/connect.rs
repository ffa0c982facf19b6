//! Opening: finds the replica set, refuses what cannot carry the log, makes collections and indexes.

use std::time::Duration;

use mongodb::{
    Client, Collection, Database, IndexModel,
    bson::{Document, RawDocumentBuf, doc},
    error::{Error, ErrorKind},
    options::{ClientOptions, IndexOptions},
};

use crate::{CONNECT_TIMEOUT, SYSTEM_DATABASES, document, migrate};

/// Everything about opening together.
const OPEN_TIMEOUT: Duration = Duration::from_secs(13);
/// How long a server is looked for.
const SELECTION_TIMEOUT: Duration = Duration::from_secs(8);
/// How often the driver looks after its servers: it notices a primary that hangs within about two of these and
/// [`CONNECT_TIMEOUT`].
const HEARTBEAT: Duration = Duration::from_secs(2);

/// Database where the URL names none.
const DATABASE: &str = "prom";
/// What `meta.format` says. In format 1 an event's id was its `_id`, and so unique over all topics.
const FORMAT: i32 = 2;

/// Why a MongoDB store cannot be opened. Every message names the URL, never its password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The URL is not one.
    #[error("MONGO_URL {url} is no MongoDB URL: {reason}")]
    Url {
        /// Without its password.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No primary was found.
    #[error(
        "no primary of MongoDB at {url} could be reached within {} s: {reason}. Is it running, is it a replica set of the name that the URL gives (a standalone server is none), and was that initiated (mongosh --eval 'rs.initiate()')?",
        SELECTION_TIMEOUT.as_secs()
    )]
    Unreachable {
        /// Without its password.
        url: String,
        /// What the driver says.
        reason: String,
    },
    /// User or password are refused.
    #[error(
        "MongoDB at {url} refuses the user or the password, or what that user may do: {reason}. A user made in database admin needs authSource=admin in the URL; a hub needs the role readWrite"
    )]
    Credentials {
        /// Without its password.
        url: String,
        /// What the server says.
        reason: String,
    },
    /// It has no transactions.
    #[error(
        "MongoDB at {url} is a standalone server, which has no transactions. Make it a replica set of one: start mongod with --replSet rs0, then run once: mongosh --eval 'rs.initiate()'"
    )]
    Standalone {
        /// Without its password.
        url: String,
    },
    /// Collections or indexes cannot be made.
    #[error("the collections of database {database} at {url} cannot be prepared: {reason}")]
    Prepare {
        /// Without its password.
        url: String,
        /// Which database.
        database: String,
        /// What the server says.
        reason: String,
    },
    /// A newer hub wrote it.
    #[error("database {database} at {url} has format {found}, and this version knows {FORMAT}; a newer hub wrote it")]
    Format {
        /// Without its password.
        url: String,
        /// Which database.
        database: String,
        /// The format found.
        found: i32,
    },
    /// An outbox that is not there.
    #[error(
        "database {database} at {url} has no collection {collection}; --outbox or PROM_OUTBOX says which one it is, like shop.outbox for one of another database"
    )]
    NoOutbox {
        /// Without its password.
        url: String,
        /// Which database.
        database: String,
        /// Which collection.
        collection: String,
    },
}

/// A URL fit for people and logs: without password and options, which may hold secrets too.
pub fn redact(url: &str) -> String {
    // Only what is a scheme: without one, a password may hold the same signs.
    let scheme = ["mongodb+srv", "mongodb"].into_iter().find_map(|scheme| {
        let rest = url.strip_prefix(scheme)?.strip_prefix("://")?;
        Some((scheme, rest))
    });
    let (scheme, rest) = scheme.unwrap_or(("mongodb", url));
    let plain = |text: &'_ str| text.split('?').next().unwrap_or_default().to_owned();
    // A password may hold what ends it elsewhere, if somebody forgot to escape it.
    match rest.rsplit_once('@') {
        Some((user, hosts)) => {
            let hosts = plain(hosts);
            let user = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}:***@{hosts}")
        }
        None => format!("{scheme}://{}", plain(rest)),
    }
}

/// Reads a URL as the driver does.
///
/// # Errors
/// What is wrong with it. Where there may be a password in it, nothing is quoted: a driver that takes a password to end
/// too early would quote the rest of it.
pub async fn parse(url: &str) -> Result<ClientOptions, String> {
    let escaped = |rest: &str| {
        let mut digits = rest.chars().take(2);
        [digits.next(), digits.next()].iter().all(|digit| digit.is_some_and(|digit| digit.is_ascii_hexdigit()))
    };
    if url.split('%').skip(1).any(|rest| !escaped(rest)) {
        return Err(format!("a % in it is not followed by two hexadecimal digits; {ESCAPES}"));
    }
    ClientOptions::parse(url)
        .await
        .map_err(|error| if url.contains('@') { format!("it cannot be read; {ESCAPES}") } else { error.to_string() })
}

const ESCAPES: &str = "in a user or password, % is written %25, @ is %40, : is %3A, / is %2F and ? is %3F";

/// Connects and prepares the database.
pub(super) async fn open(url: &str) -> Result<Database, OpenError> {
    let (database, older) = in_time(url, find).await?;
    if older {
        migrate::bring_forward(&database).await.map_err(|error| prepare(&database, &error, url, &redact(url)))?;
    }
    in_time(url, async |url, shown| {
        let made = make(&database).await;
        made.map_err(|error| prepare(&database, &error, url, shown))
    })
    .await?;
    Ok(database)
}

/// Why collections or indexes were not made.
fn prepare(database: &Database, error: &Error, url: &str, shown: &str) -> OpenError {
    match explain(error, url, shown) {
        OpenError::Unreachable { url, reason } => OpenError::Prepare { url, database: database.name().into(), reason },
        other => other,
    }
}

/// A collection that is there already, reached as the store reaches its own: `of` names it, given the database of the
/// URL. Makes nothing and changes nothing.
///
/// # Errors
/// It cannot be reached, or there is no such collection.
pub async fn existing(
    url: &str,
    of: impl FnOnce(&Database) -> Collection<Document>,
) -> Result<Collection<Document>, OpenError> {
    in_time(url, async |url, shown| {
        let rows = of(&connect(url, shown).await?);
        let namespace = rows.namespace();
        let database = rows.client().database(&namespace.db);
        let found = database.list_collection_names().filter(doc! { "name": &namespace.coll }).await;
        if found.map_err(|error| explain(&error, url, shown))?.is_empty() {
            return Err(OpenError::NoOutbox { url: shown.into(), database: namespace.db, collection: namespace.coll });
        }
        Ok(rows)
    })
    .await
}

async fn in_time<T>(url: &str, work: impl AsyncFnOnce(&str, &str) -> Result<T, OpenError>) -> Result<T, OpenError> {
    let shown = redact(url);
    match tokio::time::timeout(OPEN_TIMEOUT, work(url, &shown)).await {
        Ok(done) => done,
        Err(_) => Err(OpenError::Unreachable { url: shown, reason: "it does not answer".into() }),
    }
}

/// Finds the replica set; the database is the one the URL names. A user may still be refused by it.
async fn connect(url: &str, shown: &str) -> Result<Database, OpenError> {
    let refused = |reason| OpenError::Url { url: shown.into(), reason };
    let mut options = parse(url).await.map_err(refused)?;
    options.app_name.get_or_insert_with(|| "prom-hub".into());
    options.connect_timeout.get_or_insert(CONNECT_TIMEOUT);
    options.heartbeat_freq.get_or_insert(HEARTBEAT);
    options.server_selection_timeout.get_or_insert(SELECTION_TIMEOUT);
    // How it reads and writes is the hub's own affair: transactions read from the primary and nowhere else.
    (options.selection_criteria, options.read_concern, options.write_concern) = (None, None, None);
    let name = options.default_database.clone().unwrap_or_else(|| DATABASE.into());
    if SYSTEM_DATABASES.contains(&&*name) {
        return Err(refused(format!("database {name} is MongoDB's own; name one for the hub, like /{DATABASE}")));
    }
    let client = Client::with_options(options).map_err(|error| refused(hide(&error.to_string(), url)))?;
    let hello = client.database("admin").run_command(doc! { "hello": 1 }).await;
    let hello = hello.map_err(|error| explain(&error, url, shown))?;
    if !hello.contains_key("setName") && !hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid") {
        return Err(OpenError::Standalone { url: shown.into() });
    }
    Ok(client.database(&name))
}

/// Finds the database, and whether it has an older format.
async fn find(url: &str, shown: &str) -> Result<(Database, bool), OpenError> {
    let database = connect(url, shown).await?;
    // `hello` needs no user.
    database.list_collection_names().await.map_err(|error| explain(&error, url, shown))?;
    let meta = database.collection::<Document>("meta");
    let checked = async {
        let update = doc! { "$setOnInsert": { "version": FORMAT } };
        meta.update_one(doc! { "_id": "format" }, update).upsert(true).await?;
        meta.find_one(doc! { "_id": "format" }).await
    };
    let found = checked.await.map_err(|error| prepare(&database, &error, url, shown))?;
    match found.map_or(FORMAT, |found| found.get_i32("version").unwrap_or(0)) {
        FORMAT => Ok((database, false)),
        1 => Ok((database, true)),
        found => Err(OpenError::Format { url: shown.into(), database: database.name().into(), found }),
    }
}

/// Transactions find their collections there, and reads their indexes.
async fn make(database: &Database) -> Result<(), Error> {
    for name in ["events", "topics", "cursors"] {
        match database.create_collection(name).await {
            Err(error) if code(&error) != Some(NAMESPACE_EXISTS) => return Err(error),
            _ => {}
        }
    }
    let events = database.collection::<RawDocumentBuf>("events");
    let position = IndexModel::builder()
        .keys(doc! { "topic": 1, "seq": 1 })
        .options(IndexOptions::builder().unique(true).build())
        .build();
    let newest = IndexModel::builder()
        .keys(doc! { "topic": 1, "key": 1, "seq": -1 })
        .options(IndexOptions::builder().partial_filter_expression(doc! { "key": { "$exists": true } }).build())
        .build();
    events.create_indexes([position, newest, document::ids()]).await?;
    // Where a group has positions.
    let group = IndexModel::builder().keys(doc! { "group": 1 }).build();
    database.collection::<RawDocumentBuf>("cursors").create_index(group).await?;
    // Only now: a hub that was ended in between brings it forward once more.
    let meta = database.collection::<Document>("meta");
    meta.update_one(doc! { "_id": "format" }, doc! { "$set": { "version": FORMAT } }).await?;
    Ok(())
}

const NAMESPACE_EXISTS: i32 = 48;
const UNAUTHORIZED: i32 = 13;
const AUTHENTICATION_FAILED: i32 = 18;

/// The server's code for an error, if it comes from the server.
pub(super) fn code(error: &Error) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(command) => Some(command.code),
        _ => None,
    }
}

fn explain(error: &Error, url: &str, shown: &str) -> OpenError {
    let reason = hide(&reason(error), url);
    let shown = shown.to_owned();
    match (&*error.kind, code(error)) {
        (ErrorKind::Authentication { .. }, _) | (_, Some(AUTHENTICATION_FAILED | UNAUTHORIZED)) => {
            OpenError::Credentials { url: shown, reason }
        }
        _ => OpenError::Unreachable { url: shown, reason },
    }
}

/// What an error says, for people and logs.
pub(super) fn reason(error: &Error) -> String {
    match &*error.kind {
        ErrorKind::Command(command) => format!("{} ({})", command.message, command.code_name),
        ErrorKind::ServerSelection { message, .. } => message.clone(),
        _ => error.kind.to_string(),
    }
}

/// A text without the URL's password, should the driver quote it.
fn hide(text: &str, url: &str) -> String {
    let credentials = url.split_once("://").map_or(url, |(_, rest)| rest).rsplit_once('@').map(|(user, _)| user);
    match credentials.and_then(|user| user.split_once(':')).map(|(_, password)| password) {
        Some(password) if !password.is_empty() => text.replace(password, "***"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_secrets() {
        for (url, shown) in [
            ("mongodb://localhost:27017", "mongodb://localhost:27017"),
            ("mongodb://u:secret@a:1,b:2/prom?replicaSet=rs0", "mongodb://u:***@a:1,b:2/prom"),
            (
                "mongodb+srv://u:se@cr/et:@host/?authMechanismProperties=AWS_SESSION_TOKEN:x",
                "mongodb+srv://u:***@host/",
            ),
            ("localhost", "mongodb://localhost"),
            ("u:secret@host", "mongodb://u:***@host"),
            ("mongodb://u:sec?ret@host/prom?w=1", "mongodb://u:***@host/prom"),
        ] {
            assert_eq!(redact(url), shown);
        }
        assert_eq!(hide("bad URL mongodb://u:secret@host", "mongodb://u:secret@host"), "bad URL mongodb://u:***@host");
    }

    #[tokio::test]
    async fn what_is_no_url_is_refused_with_its_reason() {
        for url in [
            "",
            "http://u:secret@x",
            "mongodb://u:secret/x@host",
            // The driver quoted what it took for a port, and panicked at the sign.
            "mongodb://u:secret?x@host",
            "mongodb://u:secret%a€@host",
            "mongodb://u:secret%@host",
            "mongodb://host/?w=-3",
        ] {
            let error = open(url).await.unwrap_err();
            assert!(matches!(error, OpenError::Url { .. }), "{error:?}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        assert!(
            open("mongodb://host/?w=-3").await.unwrap_err().to_string().contains("w"),
            "what else is wrong is said"
        );
    }
}
