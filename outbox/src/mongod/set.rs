//! A replica set: its nodes, and what can be done to them.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use mongodb::{Client, bson};

use super::{
    Credentials, Error, Options,
    configure::{self, direct},
    find,
    guard::Guard,
    node::Node,
    ports::Port,
};

/// How often a node is asked whether it is as far.
const POLL: Duration = Duration::from_millis(10);
/// How long a folder may still be held by nodes of a process that was just killed.
const DYING: Duration = Duration::from_secs(10);
/// The status a `mongod` ends with when another has its folder, among other reasons.
const FOLDER_IN_USE: i32 = 100;
/// How long nodes may take to end in good order.
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
    /// Holds the folder, if it is kept.
    lock: Option<File>,
}

#[derive(Debug)]
struct Nodes {
    nodes: Vec<Node>,
    /// Ends after the nodes: it removes their folder.
    guard: Guard,
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // What cannot be killed here the guard tries again.
            let _ = node.kill(&mut self.guard);
        }
    }
}

impl ReplicaSet {
    /// Starts one, and waits until it takes writes. With a folder that has data it goes on from there; its ports are
    /// the same if they are still free. Where they are not, and what has them never answers, each node asks that for
    /// 30 s whether it is itself.
    ///
    /// # Errors
    /// There is no `mongod`, an option or the folder cannot be used, or a node does not come up: with its log's end.
    pub async fn start(options: Options) -> Result<Self, Error> {
        check(&options)?;
        let mongod = match options.mongod.clone() {
            Some(mongod) => mongod,
            None => find()?,
        };
        let (dir, mut lock, guard) = match &options.dir {
            Some(dir) => (dir.clone(), Some(take(dir)?), start_guard(None)?),
            None => {
                let dir = tempfile::Builder::new().prefix("prom-mongod-").tempdir();
                let dir = dir.map_err(Error::io("make a temporary folder"))?.keep();
                let guard = start_guard(Some(&dir))?;
                (dir, None, guard)
            }
        };
        let mut nodes = Nodes { nodes: Vec::with_capacity(options.nodes), guard };
        for (index, port) in ports(lock.as_mut(), options.nodes)?.into_iter().enumerate() {
            let folder = dir.join(format!("node-{index}"));
            let what = format!("prepare {}", folder.display());
            nodes.nodes.push(Node::new(port, folder).map_err(Error::io(what))?);
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

    /// Where it is, for any driver.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The folder it is in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The process ids of its nodes; none for one that was killed.
    pub fn pids(&self) -> Vec<Option<u32>> {
        self.locked().nodes.iter().map(Node::pid).collect()
    }

    /// A new client, on the runtime of the caller.
    ///
    /// # Errors
    /// The driver does not take the URL.
    pub async fn client(&self) -> Result<Client, Error> {
        Client::with_uri_str(&self.url).await.map_err(Error::Client)
    }

    /// A new client of one node, whatever its state.
    ///
    /// # Errors
    /// The driver does not take the URL.
    pub async fn client_of(&self, node: usize) -> Result<Client, Error> {
        direct(self.host(node)?, self.credentials.as_ref()).await
    }

    /// Which node is the primary; waits until there is one. Nodes that are killed or stopped are not asked.
    ///
    /// # Errors
    /// There is none in time.
    pub async fn primary(&self) -> Result<usize, Error> {
        let deadline = Deadline::new("a primary", self.patience);
        let mut clients: Vec<Option<Client>> = vec![None; self.hosts.len()];
        let mut last = None;
        loop {
            self.check_running()?;
            let mut found = None;
            for index in self.awake() {
                // Without the user: it may not be there yet, and this one question is free.
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

    /// Kills a node with SIGKILL, and returns when it is gone.
    ///
    /// # Errors
    /// There is no such node, or the system does not let it be killed.
    pub fn kill(&self, node: usize) -> Result<(), Error> {
        self.with(node, "kill", Node::kill)
    }

    /// Stops a node with SIGSTOP: its connections stay, and nothing is answered.
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

    /// Starts a killed node in its folder and on its port, and waits until it takes connections. Whether it is the
    /// primary then is up to the set.
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

    /// Ends it: in good order if its folder is kept, at once otherwise. Returns when all is gone.
    ///
    /// # Errors
    /// The nodes cannot be told.
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

    /// Waits until all that run take connections.
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
            // Just started, a node may not have read its configuration yet.
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
        // A test that failed meanwhile has left no node half changed.
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

    /// No node ended by itself.
    fn check_running(&self) -> Result<(), Error> {
        let Nodes { nodes, guard } = &mut *self.locked();
        for (index, node) in nodes.iter_mut().enumerate() {
            if let Some(status) = node.ended(guard).map_err(Error::io("see whether mongod runs"))? {
                return Err(Error::Ended { node: index, status, log: node.log_tail() });
            }
        }
        Ok(())
    }

    /// Waits a little, but not beyond the deadline.
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

/// An error with what caused it, on one line.
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
    // It would fill the folder with figures for MongoDB's support.
    args.extend(["--setParameter", "diagnosticDataCollectionEnabled=false"].map(str::to_owned));
    // At a signal, a primary waits so long before it ends: for clients that nobody has here.
    args.extend(["--setParameter", "shutdownTimeoutMillisForSignaledShutdown=100"].map(str::to_owned));
    args.extend(["--wiredTigerCacheSizeGB".to_owned(), (f64::from(options.cache_mb) / 1024.0).to_string()]);
    if !options.standalone {
        args.extend(["--replSet", configure::NAME, "--oplogSize"].map(str::to_owned));
        args.push(options.oplog_mb.to_string());
    }
    match (&options.credentials, options.standalone) {
        (None, _) => {}
        (Some(_), true) => args.push("--auth".to_owned()),
        (Some(_), false) => args.extend(["--keyFile".to_owned(), key_file(dir)?]),
    }
    args.extend(options.args.iter().cloned());
    Ok(args)
}

/// What the nodes of a set with access control know each other by; made when it is not there.
fn key_file(dir: &Path) -> Result<String, Error> {
    let path = dir.join("key");
    let text = path
        .to_str()
        .ok_or_else(|| Error::Option { field: "dir", problem: format!("is {}, which is not UTF-8", dir.display()) })?;
    if !path.exists() {
        let key = format!("{}{}", bson::Uuid::new(), bson::Uuid::new()).replace('-', "");
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let written = file.and_then(|mut file| file.write_all(key.as_bytes()));
        written.map_err(Error::io(format!("write {text}")))?;
    }
    Ok(text.to_owned())
}

fn start_guard(folder: Option<&Path>) -> Result<Guard, Error> {
    Guard::start(folder).map_err(Error::io("run sh"))
}

/// Makes the folder, and takes it for this process: the lock is on the file that has the ports.
fn take(dir: &Path) -> Result<File, Error> {
    let what = || format!("use {}", dir.display());
    fs::create_dir_all(dir).map_err(Error::io(what()))?;
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(dir.join("ports"));
    let file = file.map_err(Error::io(what()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse(dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(Error::io(what())(error)),
    }
}

/// Ports for the nodes: those the file says, where they are free, and else others, which the file then says.
fn ports(file: Option<&mut File>, nodes: usize) -> Result<Vec<Port>, Error> {
    let free = || Port::free().map_err(Error::io("find a free port"));
    let Some(file) = file else { return (0..nodes).map(|_| free()).collect() };
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(Error::io("read the ports of the set"))?;
    let remembered: Vec<Option<u16>> = text.split_whitespace().map(|port| port.parse().ok()).collect();
    if !remembered.is_empty() && remembered.len() != nodes {
        let problem = format!("is {nodes}, but the folder has a set of {}", remembered.len());
        return Err(Error::Option { field: "nodes", problem });
    }
    let mut ports = Vec::with_capacity(nodes);
    for index in 0..nodes {
        let same = remembered.get(index).copied().flatten().and_then(|port| Port::claim(port).ok());
        ports.push(same.map_or_else(free, Ok)?);
    }
    let numbers: Vec<String> = ports.iter().map(|port| port.number.to_string()).collect();
    let written = file.rewind().and_then(|()| file.set_len(0)).and_then(|()| writeln!(file, "{}", numbers.join(" ")));
    written.map_err(Error::io("write the ports of the set"))?;
    Ok(ports)
}
