//! The folder of a set that is kept: one process at a time has it, and it remembers the ports of its nodes.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use mongodb::bson;

use crate::{error::Error, ports::Port};

/// Makes the folder if there is none, and takes it for this process by a lock on the file `ports`, which is returned.
pub(crate) fn take(dir: &Path) -> Result<File, Error> {
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

/// Claims a port for each node: the one that the file remembers, or another if that is taken. The file remembers the
/// new ones. Without a file: any free ports.
pub(crate) fn ports(file: Option<&mut File>, nodes: usize) -> Result<Vec<Port>, Error> {
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

/// The path of the key by which the nodes of a set with access control know each other; makes the key if there is none.
pub(crate) fn key_file(dir: &Path) -> Result<String, Error> {
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
