//! Finds a `mongod` program on this machine.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// No `mongod` was found, or the variable `MONGOD` names no file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}; `npm run setup -- mongod` in the project's folder provides one, or set MONGOD to the path of yours")]
pub struct NotFound(String);

/// Finds a `mongod`: the variable `MONGOD`, then `PATH`, then what `npm run setup -- mongod` fetched into the folder
/// `target/tools` of the project, which is looked for from the current folder and from this program upwards.
///
/// Whether what was found runs is not tried.
///
/// # Errors
/// [`NotFound`] if there is no `mongod` in these places, or if `MONGOD` is set and names no file.
pub fn find() -> Result<PathBuf, NotFound> {
    let current = env::current_dir().ok();
    let program = env::current_exe().ok();
    find_in(
        env::var_os("MONGOD").filter(|named| !named.is_empty()).map(PathBuf::from).as_deref(),
        &env::var_os("PATH").map(|path| env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default(),
        &[current.as_deref(), program.as_deref()].map(|start| start.unwrap_or(Path::new(""))),
    )
}

fn find_in(named: Option<&Path>, path: &[PathBuf], starts: &[&Path]) -> Result<PathBuf, NotFound> {
    if let Some(named) = named {
        let found = named.is_file().then(|| named.to_owned());
        return found.ok_or_else(|| NotFound(format!("MONGOD is {}, which is no file", named.display())));
    }
    let on_path = path.iter().map(|folder| folder.join("mongod")).find(|mongod| mongod.is_file());
    let fetched = || starts.iter().flat_map(|start| start.ancestors()).find_map(fetched_in);
    on_path.or_else(fetched).ok_or_else(|| NotFound("there is no mongod on PATH".into()))
}

/// The newest `mongod` in the target folder that this folder contains, or is itself.
fn fetched_in(folder: &Path) -> Option<PathBuf> {
    let target = if folder.join("Cargo.lock").is_file() {
        folder.join("target")
    } else if folder.join("CACHEDIR.TAG").is_file() {
        folder.to_owned()
    } else {
        return None;
    };
    let tools = fs::read_dir(target.join("tools")).ok()?.filter_map(Result::ok);
    let found = tools.filter(|tool| tool.file_name().to_string_lossy().starts_with("mongod-"));
    found.map(|tool| tool.path().join("mongod")).filter(|mongod| mongod.is_file()).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: PathBuf) -> PathBuf {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        path
    }

    #[test]
    fn takes_the_one_named_before_the_one_on_path() {
        let folder = tempfile::tempdir().unwrap();
        let named = file(folder.path().join("mine"));
        file(folder.path().join("mongod"));
        assert_eq!(find_in(Some(&named), &[folder.path().to_owned()], &[]), Ok(named));
    }

    #[test]
    fn does_not_go_on_when_the_one_named_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        file(folder.path().join("mongod"));
        let error = find_in(Some(Path::new("/no/such/mongod")), &[folder.path().to_owned()], &[]).unwrap_err();
        assert!(error.to_string().starts_with("MONGOD is /no/such/mongod, which is no file"), "{error}");
    }

    #[test]
    fn finds_what_was_fetched_from_below_the_project_and_from_the_program() {
        let folder = tempfile::tempdir().unwrap();
        let fetched = file(folder.path().join("target/tools/mongod-6.0.5/mongod"));
        file(folder.path().join("Cargo.lock"));
        let tag = file(folder.path().join("target/CACHEDIR.TAG"));
        assert_eq!(find_in(None, &[], &[&folder.path().join("server/src")]), Ok(fetched.clone()));
        assert_eq!(find_in(None, &[], &[&tag.with_file_name("release")]), Ok(fetched));
    }

    #[test]
    fn says_what_provides_one() {
        let error = find_in(None, &[], &[]).unwrap_err().to_string();
        assert!(error.contains("`npm run setup -- mongod`"), "{error}");
    }
}
