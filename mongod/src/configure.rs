//! Makes nodes a replica set: initiates it or gives it new addresses, and adds the first user.

use std::time::Duration;

use mongodb::{
    Client,
    bson::{Bson, Document, doc, oid::ObjectId},
    error::{Error as MongoError, ErrorKind},
};

use crate::{
    error::Error,
    options::{Credentials, Elections},
};

/// The name of every replica set that is started here.
pub(crate) const NAME: &str = "prom";
/// How long a node may take to answer. A node that is up answers at once; one that hangs does not answer at all.
const ANSWERING: Duration = Duration::from_secs(2);

// Error codes of MongoDB.
const UNAUTHORIZED: i32 = 13;
const ALREADY_INITIALIZED: i32 = 23;
const USER_EXISTS: i32 = 51003;

/// The configuration document of a replica set, as `replSetInitiate` takes it.
pub(crate) fn config(hosts: &[String], elections: Elections) -> Document {
    // Milliseconds, milliseconds, seconds. The last counts too: before it takes writes, a new primary waits for the
    // answer of a member that hangs, at most so long.
    let (election, heartbeat, hanging) = match elections {
        Elections::Fast => (2000, 500, 2),
        Elections::Production => (10_000, 2000, 10),
    };
    let members = hosts.iter().zip(0_i32..).map(|(host, id)| doc! { "_id": id, "host": host });
    doc! {
        "_id": NAME,
        "version": 1,
        "members": members.collect::<Vec<_>>(),
        "settings": {
            "electionTimeoutMillis": election,
            "heartbeatIntervalMillis": heartbeat,
            "heartbeatTimeoutSecs": hanging,
        },
    }
}

/// The connection URL of the set, with user and password if there is access control.
pub(crate) fn url(hosts: &[String], credentials: Option<&Credentials>, standalone: bool) -> String {
    let mut parameters = Vec::new();
    if !standalone {
        parameters.push(format!("replicaSet={NAME}"));
    }
    if credentials.is_some() {
        parameters.push("authSource=admin".to_owned());
    }
    let question = if parameters.is_empty() { "" } else { "?" };
    format!("mongodb://{}{}/{question}{}", login(credentials), hosts.join(","), parameters.join("&"))
}

fn login(credentials: Option<&Credentials>) -> String {
    let Some(Credentials { user, password }) = credentials else { return String::new() };
    format!("{}:{}@", escaped(user), escaped(password))
}

fn escaped(text: &str) -> String {
    let escape = |byte: u8| {
        let plain = byte.is_ascii_alphanumeric();
        if plain { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    text.bytes().map(escape).collect()
}

/// A client of one node that does not care whether the node is primary, secondary or neither.
pub(crate) async fn direct(host: &str, credentials: Option<&Credentials>) -> Result<Client, Error> {
    let ms = ANSWERING.as_millis();
    let url = format!(
        "mongodb://{}{host}/?directConnection=true&serverSelectionTimeoutMS={ms}&connectTimeoutMS={ms}",
        login(credentials)
    );
    Client::with_uri_str(url).await.map_err(Error::Client)
}

/// Initiates a set of this configuration, or adapts the configuration that the node already has. A node that was just
/// started may refuse both for a while: the caller tries again.
pub(crate) async fn initiate(host: &str, credentials: Option<&Credentials>, config: &Document) -> Result<(), Error> {
    // Without a user, for there is none yet. MongoDB allows this command from this machine until there is one.
    let admin = direct(host, None).await?.database("admin");
    match admin.run_command(doc! { "replSetInitiate": config }).await {
        Ok(_) => Ok(()),
        Err(error) if matches!(code(&error), Some(ALREADY_INITIALIZED | UNAUTHORIZED)) => {
            adapt(host, credentials, config).await
        }
        Err(source) => Err(Error::Command { command: "replSetInitiate", source }),
    }
}

/// Changes addresses and settings in the configuration of a set that was started before, where they differ.
async fn adapt(host: &str, credentials: Option<&Credentials>, wanted: &Document) -> Result<(), Error> {
    let refused = |command| move |source| Error::Command { command, source };
    let admin = direct(host, credentials).await?.database("admin");
    let answer = admin.run_command(doc! { "replSetGetConfig": 1 }).await.map_err(refused("replSetGetConfig"))?;
    let mut config = answer.get_document("config").cloned().unwrap_or_default();
    if !differs(&config, wanted) {
        return Ok(());
    }
    config.extend(wanted.clone().into_iter().filter(|(name, _)| name != "version"));
    // By force: only a primary may do it otherwise, and a node that does not find its own address in its configuration
    // cannot be one.
    let reconfigure = doc! { "replSetReconfig": config, "force": true };
    admin.run_command(reconfigure).await.map_err(refused("replSetReconfig"))?;
    Ok(())
}

fn differs(config: &Document, wanted: &Document) -> bool {
    let hosts = |config: &Document| {
        let members = config.get_array("members").cloned().unwrap_or_default();
        let host =
            |member: Bson| member.as_document().and_then(|member| member.get_str("host").ok()).map(str::to_owned);
        members.into_iter().map(host).collect::<Vec<_>>()
    };
    let settings = |config: &Document| {
        let settings = config.get_document("settings").cloned().unwrap_or_default();
        ["electionTimeoutMillis", "heartbeatIntervalMillis", "heartbeatTimeoutSecs"]
            .map(|name| settings.get(name).cloned())
    };
    hosts(config) != hosts(wanted) || settings(config) != settings(wanted)
}

/// Adds the user, with the role `root`, unless there already is one.
pub(crate) async fn add_user(host: &str, credentials: &Credentials) -> Result<(), Error> {
    let Credentials { user, password } = credentials;
    let admin = direct(host, None).await?.database("admin");
    match admin.run_command(doc! { "createUser": user, "pwd": password, "roles": ["root"] }).await {
        Ok(_) => Ok(()),
        Err(error) if matches!(code(&error), Some(USER_EXISTS | UNAUTHORIZED)) => Ok(()),
        Err(source) => Err(Error::Command { command: "createUser", source }),
    }
}

fn code(error: &MongoError) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(error) => Some(error.code),
        _ => None,
    }
}

/// The election that made a node primary; a later election is greater. `None`: the node is in no replica set.
pub(crate) type Elected = Option<ObjectId>;

/// If the node takes writes, the election that made it primary; otherwise `None`. Two nodes may both say that they take
/// writes: the one with the older election does not know yet that it was replaced.
pub(crate) async fn primary_since(client: &Client) -> Result<Option<Elected>, String> {
    let admin = client.database("admin");
    let asked = tokio::time::timeout(ANSWERING, admin.run_command(doc! { "hello": 1 })).await;
    let answer = asked.map_err(|_| "hello is not answered")?.map_err(|error| error.to_string())?;
    let is_primary = answer.get_bool("isWritablePrimary").unwrap_or(false);
    Ok(is_primary.then(|| answer.get_object_id("electionId").ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_urls() {
        let hosts = ["127.0.0.1:1".to_owned(), "127.0.0.1:3".to_owned()];
        let credentials = Credentials { user: "u".into(), password: "p@:/ä".into() };
        assert_eq!(url(&hosts, None, false), "mongodb://127.0.0.1:1,127.0.0.1:3/?replicaSet=prom");
        assert_eq!(url(&hosts[..1], None, true), "mongodb://127.0.0.1:1/");
        assert_eq!(
            url(&hosts[..1], Some(&credentials), false),
            "mongodb://u:p%40%3A%2F%C3%A4@127.0.0.1:1/?replicaSet=prom&authSource=admin"
        );
    }

    #[test]
    fn sees_other_hosts_and_settings_and_nothing_else() {
        let hosts = ["127.0.0.1:1".to_owned()];
        let wanted = config(&hosts, Elections::Fast);
        let mut kept = config(&hosts, Elections::Fast);
        kept.insert("version", 7);
        assert!(!differs(&kept, &wanted));
        assert!(differs(&config(&["127.0.0.1:3".to_owned()], Elections::Fast), &wanted));
        assert!(differs(&config(&hosts, Elections::Production), &wanted));
    }
}
