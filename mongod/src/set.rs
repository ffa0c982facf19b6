//! A replica set: starts its nodes, disturbs them, ends them.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use mongodb::Client;

use crate::{
    configure::{self, direct},
    error::Error,
    find::find,
    folder,
    guard::Guard,
    node::Node,
    options::{Credentials, Options},
};

/// The pause between two looks at whether something that is waited for has happened.
const POLL: Duration = Duration::from_millis(10);
/// How long nodes of a process that was just killed may still hold the folder.
const DYING: Duration = Duration::from_secs(10);
/// The exit status of a `mongod` when another one has its folder; it has other reasons too.
const FOLDER_IN_USE: i32 = 100;
/// How long nodes may take to end after SIGTERM. Those that take longer are killed.
const ENDING: Duration = Duration::from_secs(20);

/// Running `mongod` processes that are a replica set, or one that is in none. Nodes are numbered from 0.
///
/// Its methods take `&self`: a test may disturb a set from one task and use it from others. Dropping it ends the nodes
/// and removes a temporary folder.
#[derive(Debug)]
pub struct ReplicaSet {
    nodes: Mutex<Nodes>,
    dir: PathBuf,
    hosts: Vec<String>,
    url: String,
    mongod: PathBuf,
    args: Vec<String>,
    credentials: Option<Credentials>,
    patience: Duration,
    /// The lock on the folder, if it is one that is kept.
    lock: Option<File>,
}

#[derive(Debug)]
struct Nodes {
    nodes: Vec<Node>,
    /// Must be dropped after the nodes, because it removes their folder.
    guard: Guard,
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // If this fails, the guard tries it again.
            let _ = node.kill(&mut self.guard);
        }
    }
}

impl ReplicaSet {
    /// Starts a set, and waits until it takes writes. If the folder has the data of an earlier set, this one goes on
    /// with it, at the same ports if they are still free. If a port was taken meanwhile by something that accepts
    /// connections and never answers, starting may take 30 s longer: so long each node asks there whether that is
    /// itself.
    ///
    /// # Errors
    /// There is no `mongod`, an option or the folder cannot be used, or a node does not come up. The latter shows the
    /// last lines of its log.
    pub async fn start(options: Options) -> Result<Self, Error> {
        check(&options)?;
        let mongod = match options.mongod.clone() {
            Some(mongod) => mongod,
            None => find()?,
        };
        let (dir, mut lock, guard) = match &options.dir {
            Some(dir) => (dir.clone(), Some(folder::take(dir)?), start_guard(None)?),
            None => {
                let dir = tempfile::Builder::new().prefix("prom-mongod-").tempdir();
                let dir = dir.map_err(Error::io("make a temporary folder"))?.keep();
                let guard = start_guard(Some(&dir))?;
                (dir, None, guard)
            }
        };
        let mut nodes = Nodes { nodes: Vec::with_capacity(options.nodes), guard };
        for (index, port) in folder::ports(lock.as_mut(), options.nodes)?.into_iter().enumerate() {
            let own = dir.join(format!("node-{index}"));
            let what = format!("prepare {}", own.display());
            nodes.nodes.push(Node::new(port, own).map_err(Error::io(what))?);
        }
        let hosts: Vec<String> = nodes.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port.number)).collect();
        let set = Self {
            nodes: Mutex::new(nodes),
            url: configure::url(&hosts, options.credentials.as_ref(), options.standalone),
            hosts,
            mongod,
            args: arguments(&options, &dir)?,
            dir,
            credentials: options.credentials.clone(),
            patience: options.patience,
            lock,
        };
        set.start_nodes().await?;
        set.configure(&options).await?;
        Ok(set)
    }

    /// The connection URL of the set, for any driver.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Host and port of each node.
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// The folder that has its data.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The process id of each node; `None` for one that was killed.
    pub fn pids(&self) -> Vec<Option<u32>> {
        self.locked().nodes.iter().map(Node::pid).collect()
    }

    /// A new client of the set. It belongs to the runtime of the caller and must not outlive it.
    ///
    /// # Errors
    /// The driver does not take the URL.
    pub async fn client(&self) -> Result<Client, Error> {
        Client::with_uri_str(&self.url).await.map_err(Error::Client)
    }

    /// A new client of one node that does not care whether the node is primary, secondary or neither.
    ///
    /// # Errors
    /// The driver does not take the URL.
    pub async fn client_of(&self, node: usize) -> Result<Client, Error> {
        direct(self.host(node)?, self.credentials.as_ref()).await
    }

    /// The number of the node that is primary; waits until there is one. Nodes that are killed or stopped are not
    /// asked.
    ///
    /// # Errors
    /// [`Error::Deadline`] if no node becomes primary in time, [`Error::Ended`] if one ends by itself.
    pub async fn primary(&self) -> Result<usize, Error> {
        let deadline = Deadline::new("a primary", self.patience);
        let mut clients: Vec<Option<Client>> = vec![None; self.hosts.len()];
        let mut last = None;
        loop {
            self.check_running()?;
            let mut found = None;
            for index in self.awake() {
                // Without a user: it may not be there yet, and `hello` needs none.
                let client = match &mut clients[index] {
                    Some(client) => client,
                    none => none.insert(direct(&self.hosts[index], None).await?),
                };
                match configure::primary_since(client).await {
                    Ok(Some(elected)) => found = found.max(Some((elected, index))),
                    Ok(None) => {}
                    Err(error) => last = Some(format!("node {index}: {error}")),
                }
            }
            if let Some((_, index)) = found {
                return Ok(index);
            }
            self.pause(&deadline, &last).await?;
        }
    }

    /// Kills a node with SIGKILL, and returns when the process is gone.
    ///
    /// # Errors
    /// There is no such node, or the system does not let it be killed.
    pub fn kill(&self, node: usize) -> Result<(), Error> {
        self.with(node, "kill", Node::kill)
    }

    /// Stops a node with SIGSTOP: it keeps its connections and answers nothing.
    ///
    /// # Errors
    /// There is no such node, or it does not run.
    pub fn stop(&self, node: usize) -> Result<(), Error> {
        self.with(node, "stop", |node, _| node.stop())
    }

    /// Lets a stopped node go on.
    ///
    /// # Errors
    /// There is no such node, or it does not run.
    pub fn resume(&self, node: usize) -> Result<(), Error> {
        self.with(node, "resume", |node, _| node.resume())
    }

    /// Starts a killed node again, in its folder and on its port, and waits until it takes connections. It may not have
    /// caught up with the others yet.
    ///
    /// # Errors
    /// There is no such node, or it does not come up.
    pub async fn start_again(&self, node: usize) -> Result<(), Error> {
        self.with(node, "start", |node, guard| match node.pid() {
            Some(_) => Err(std::io::ErrorKind::AlreadyExists.into()),
            None => node.start(&self.mongod, &self.args, guard),
        })?;
        self.listening().await
    }

    /// Ends the set and returns when its processes are gone: by SIGTERM if its folder is kept, by SIGKILL otherwise.
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub async fn shutdown(self) -> Result<(), Error> {
        if self.lock.is_none() {
            return Ok(());
        }
        for index in 0..self.hosts.len() {
            self.with(index, "end", |node, _| node.ask_to_end())?;
        }
        let deadline = Instant::now() + ENDING;
        while self.are_running()? && Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    async fn start_nodes(&self) -> Result<(), Error> {
        let dying = Instant::now() + DYING;
        loop {
            for index in 0..self.hosts.len() {
                self.with(index, "start", |node, guard| node.start(&self.mongod, &self.args, guard))?;
            }
            match self.listening().await {
                Err(Error::Ended { status, .. })
                    if self.lock.is_some() && status.code() == Some(FOLDER_IN_USE) && Instant::now() < dying =>
                {
                    for index in 0..self.hosts.len() {
                        self.kill(index)?;
                    }
                    tokio::time::sleep(POLL).await;
                }
                result => return result,
            }
        }
    }

    /// Waits until all nodes that run take connections.
    async fn listening(&self) -> Result<(), Error> {
        let deadline = Deadline::new("mongod to take connections", self.patience);
        loop {
            self.check_running()?;
            if self.locked().nodes.iter().all(|node| !node.is_awake() || node.is_listening()) {
                return Ok(());
            }
            self.pause(&deadline, &None).await?;
        }
    }

    async fn configure(&self, options: &Options) -> Result<(), Error> {
        let credentials = self.credentials.as_ref();
        if !options.standalone {
            let config = configure::config(&self.hosts, options.elections);
            let deadline = Deadline::new("the set to be configured", self.patience);
            // A node that was just started may not have read its configuration yet, and refuses.
            while let Err(error) = configure::initiate(&self.hosts[0], credentials, &config).await {
                self.check_running()?;
                self.pause(&deadline, &Some(reason(&error))).await?;
            }
        }
        let primary = self.primary().await?;
        match credentials {
            Some(credentials) => configure::add_user(&self.hosts[primary], credentials).await,
            None => Ok(()),
        }
    }

    fn locked(&self) -> MutexGuard<'_, Nodes> {
        // A panic elsewhere while it was locked leaves no node half changed, so the lock can be used on.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn host(&self, node: usize) -> Result<&str, Error> {
        let none = || Error::Option { field: "node", problem: format!("is {node}, of {} nodes", self.hosts.len()) };
        self.hosts.get(node).map(String::as_str).ok_or_else(none)
    }

    fn with(
        &self,
        node: usize,
        verb: &str,
        act: impl FnOnce(&mut Node, &mut Guard) -> std::io::Result<()>,
    ) -> Result<(), Error> {
        self.host(node)?;
        let Nodes { nodes, guard } = &mut *self.locked();
        act(&mut nodes[node], guard).map_err(Error::io(format!("{verb} node {node}")))
    }

    fn awake(&self) -> Vec<usize> {
        let nodes = self.locked();
        (0..nodes.nodes.len()).filter(|&index| nodes.nodes[index].is_awake()).collect()
    }

    fn are_running(&self) -> Result<bool, Error> {
        let Nodes { nodes, guard } = &mut *self.locked();
        for node in nodes.iter_mut() {
            node.ended(guard).map_err(Error::io("see whether mongod runs"))?;
        }
        Ok(nodes.iter().any(|node| node.pid().is_some()))
    }

    /// Fails if a node has ended by itself.
    fn check_running(&self) -> Result<(), Error> {
        let Nodes { nodes, guard } = &mut *self.locked();
        for (index, node) in nodes.iter_mut().enumerate() {
            if let Some(status) = node.ended(guard).map_err(Error::io("see whether mongod runs"))? {
                return Err(Error::Ended { node: index, status, log: node.log_tail() });
            }
        }
        Ok(())
    }

    /// Sleeps for a moment; fails when the deadline has passed.
    async fn pause(&self, deadline: &Deadline, last: &Option<String>) -> Result<(), Error> {
        if deadline.since.elapsed() >= deadline.patience {
            let Nodes { nodes, .. } = &*self.locked();
            return Err(Error::Deadline {
                what: deadline.what.to_owned(),
                waited: deadline.patience,
                last: last.clone(),
                log: nodes.first().map(Node::log_tail).unwrap_or_default(),
            });
        }
        tokio::time::sleep(POLL).await;
        Ok(())
    }
}

struct Deadline {
    what: &'static str,
    since: Instant,
    patience: Duration,
}

impl Deadline {
    fn new(what: &'static str, patience: Duration) -> Self {
        Self { what, since: Instant::now(), patience }
    }
}

/// An error and its cause, on one line.
fn reason(error: &Error) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

fn check(options: &Options) -> Result<(), Error> {
    let refuse = |field, problem: String| Err(Error::Option { field, problem });
    if options.nodes == 0 || options.nodes > 7 {
        return refuse("nodes", format!("is {}, not 1 to 7, which is how many have a vote", options.nodes));
    }
    if options.standalone && options.nodes != 1 {
        return refuse("standalone", format!("is set, with {} nodes; it is one", options.nodes));
    }
    if options.oplog_mb == 0 {
        return refuse("oplog_mb", "is 0, not 1 at least".into());
    }
    if options.cache_mb < 256 {
        return refuse("cache_mb", format!("is {}, not 256 at least", options.cache_mb));
    }
    Ok(())
}

fn arguments(options: &Options, dir: &Path) -> Result<Vec<String>, Error> {
    let mut args: Vec<String> = ["--bind_ip", "127.0.0.1", "--nounixsocket", "--quiet"].map(str::to_owned).into();
    // Or it would fill the folder with measurements for MongoDB's support.
    args.extend(["--setParameter", "diagnosticDataCollectionEnabled=false"].map(str::to_owned));
    // After SIGTERM, a primary goes on for so long, so that clients can finish; there are none here.
    args.extend(["--setParameter", "shutdownTimeoutMillisForSignaledShutdown=100"].map(str::to_owned));
    args.extend(["--wiredTigerCacheSizeGB".to_owned(), (f64::from(options.cache_mb) / 1024.0).to_string()]);
    if !options.standalone {
        args.extend(["--replSet", configure::NAME, "--oplogSize"].map(str::to_owned));
        args.push(options.oplog_mb.to_string());
    }
    match (&options.credentials, options.standalone) {
        (None, _) => {}
        (Some(_), true) => args.push("--auth".to_owned()),
        (Some(_), false) => args.extend(["--keyFile".to_owned(), folder::key_file(dir)?]),
    }
    args.extend(options.args.iter().cloned());
    Ok(args)
}

fn start_guard(folder: Option<&Path>) -> Result<Guard, Error> {
    Guard::start(folder).map_err(Error::io("run sh"))
}
