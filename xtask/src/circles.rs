//! Finds source files that import each other in a circle, and files that are too long.
//!
//! Between crates the compiler keeps the layers; inside a crate nothing does but this. Imports are read as text: `use`
//! declarations, and paths that begin with `crate`, `super` or `self`. A module that hands on what its own files define
//! (`pub use child::Thing`) does not import it. What only tests see is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// Lines of a file, its tests not counted: what one can read in a sitting.
const LINE_LIMIT: usize = 600;

/// Where a module stands in its crate: `[]` is the root, `["store", "memory"]` is `store/memory.rs`.
type Module = Vec<String>;

/// The files of one crate.
#[derive(Default)]
struct Crate {
    files: BTreeMap<Module, File>,
}

struct File {
    path: PathBuf,
    /// Without comments and tests.
    code: String,
    lines: usize,
}

/// Fails with a list of what is wrong in the crates below `root`, if anything is.
pub(crate) fn check(root: &Path) -> Result<()> {
    let mut problems = String::new();
    for member in members(root)? {
        let source = Crate::read(&root.join(&member).join("src"))?;
        let name = |path: &Path| format!("{member}/src/{}", path.display());
        for file in source.files.values().filter(|file| file.lines > LINE_LIMIT) {
            writeln!(problems, "{}: {} lines, more than {LINE_LIMIT}", name(&file.path), file.lines)?;
        }
        let arrows = source.arrows();
        for circle in circles(&arrows) {
            writeln!(problems, "{member}/src: a circle of {} files", circle.len())?;
            for from in &circle {
                for (to, names) in arrows[from].iter().filter(|(to, _)| circle.contains(*to)) {
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    let (from, to) = (&source.files[from].path, &source.files[to].path);
                    writeln!(problems, "  {} -> {}: {}", from.display(), to.display(), names.join(", "))?;
                }
            }
        }
    }
    if !problems.is_empty() {
        bail!("{}", problems.trim_end());
    }
    Ok(())
}

/// The folders that the workspace's manifest names.
fn members(root: &Path) -> Result<Vec<String>> {
    let path = root.join("Cargo.toml");
    let manifest = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let list = manifest.split_once("members = [").and_then(|(_, rest)| rest.split_once(']'));
    let (list, _) = list.with_context(|| format!("{} names no members", path.display()))?;
    Ok(list.split('"').skip(1).step_by(2).map(str::to_owned).collect())
}

impl Crate {
    fn read(folder: &Path) -> Result<Self> {
        let mut texts = Vec::new();
        read_folder(folder, Path::new(""), &mut texts)?;
        Ok(Self::new(texts))
    }

    fn new(texts: Vec<(PathBuf, String)>) -> Self {
        let mut files = BTreeMap::new();
        let mut only_tests = BTreeSet::new();
        for (path, text) in texts {
            let module = module(&path);
            let product = text.find("#[cfg(test)]\nmod tests").map_or(text.as_str(), |end| &text[..end]);
            only_tests.extend(test_modules(product).map(|child| [&module[..], &[child.to_owned()]].concat()));
            let code = product.lines().map(|line| line.split("//").next().unwrap_or_default());
            let code = code.collect::<Vec<_>>().join("\n");
            files.insert(module, File { path, code, lines: product.lines().count() });
        }
        files.retain(|module, _| !only_tests.iter().any(|tests| module.starts_with(tests)));
        Self { files }
    }

    /// Which file imports which, and what.
    fn arrows(&self) -> Arrows {
        let imports = |module: &Module, file: &File| {
            let mut found: BTreeMap<Module, BTreeSet<String>> = BTreeMap::new();
            for path in imports(&file.code) {
                let Some(full) = self.absolute(module, &path) else { continue };
                // The longest part of it that is a file; what follows is something in that file.
                let end = (0..=full.len()).rev().find(|&end| self.files.contains_key(&full[..end]));
                if let Some(end) = end.filter(|&end| full[..end] != module[..]) {
                    let name = if end == full.len() { "the module".to_owned() } else { full[end..].join("::") };
                    found.entry(full[..end].to_vec()).or_default().insert(name);
                }
            }
            found
        };
        self.files.iter().map(|(module, file)| (module.clone(), imports(module, file))).collect()
    }

    /// A path as it stands in a module, from the crate's root; none if it leads out of the crate.
    fn absolute(&self, module: &[String], path: &[String]) -> Option<Module> {
        let ups = path.iter().take_while(|part| *part == "super").count();
        match path.first()?.as_str() {
            "crate" => Some(path[1..].to_vec()),
            "self" => Some([module, &path[1..]].concat()),
            "super" => Some([&module[..module.len().checked_sub(ups)?], &path[ups..]].concat()),
            child => {
                let child = [module, &[child.to_owned()]].concat();
                self.files.contains_key(&child).then(|| [module, path].concat())
            }
        }
    }
}

type Arrows = BTreeMap<Module, BTreeMap<Module, BTreeSet<String>>>;

fn read_folder(folder: &Path, relative: &Path, texts: &mut Vec<(PathBuf, String)>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let (path, relative) = (entry.path(), relative.join(entry.file_name()));
        if path.is_dir() {
            read_folder(&path, &relative, texts)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            texts.push((relative, text));
        }
    }
    Ok(())
}

fn module(path: &Path) -> Module {
    let without = path.with_extension("");
    let mut parts: Module = without.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| matches!(last.as_str(), "mod" | "lib" | "main")) {
        parts.pop();
    }
    parts
}

/// The names in `#[cfg(test)] mod name;`, also for `any(test, feature = "testing")`.
fn test_modules(text: &str) -> impl Iterator<Item = &str> {
    let mut for_tests = false;
    text.lines().filter_map(move |line| {
        if line.starts_with("#[") {
            for_tests |= line.starts_with("#[cfg(") && line.contains("test") && !line.contains("not(");
            return None;
        }
        let words = line.trim_end().strip_suffix(';')?.split_whitespace().rev();
        let named = words.take(2).collect::<Vec<_>>();
        let tests = std::mem::take(&mut for_tests);
        (tests && named.get(1) == Some(&"mod")).then(|| named[0])
    })
}

/// Every path that is imported or used.
fn imports(code: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let mut rest = String::new();
    for (index, statement) in code.split("use ").enumerate() {
        let before = rest.trim_end();
        let public = before.ends_with("pub") || before.ends_with("pub(crate)") || before.ends_with("pub(super)");
        let starts = index > 0 && (public || before.is_empty() || before.ends_with([';', '{', '}', ']']));
        match statement.split_once(';') {
            Some((tree, after)) if starts => {
                let mut found = Vec::new();
                expand(tree, &[], &mut found);
                let rooted =
                    |path: &Vec<String>| path.first().is_some_and(|first| first == "crate" || first == "super");
                paths.extend(found.into_iter().filter(|path| !public || rooted(path)));
                rest.push(';');
                rest.push_str(after);
            }
            _ => rest.push_str(statement),
        }
    }
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    for text in rest.split(|c| !is_part(c)) {
        let path: Vec<String> = text.split("::").map(str::to_owned).collect();
        if path.len() > 1 && matches!(path[0].as_str(), "crate" | "super" | "self") {
            paths.push(path);
        }
    }
    paths
}

/// `a::{b, c::d}` is `a::b` and `a::c::d`.
fn expand(tree: &str, prefix: &[String], paths: &mut Vec<Vec<String>>) {
    let (head, group) = tree.split_once('{').unwrap_or((tree, ""));
    let head = head.split(" as ").next().unwrap_or_default();
    let names = head.split("::").map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned);
    let path: Vec<String> = prefix.iter().cloned().chain(names).collect();
    let Some(group) = group.trim_end().strip_suffix('}') else { return paths.push(path) };
    let (mut depth, mut from) = (0, 0);
    for (at, c) in group.char_indices().chain([(group.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !group[from..at].trim().is_empty() {
                    expand(&group[from..at], &path, paths);
                }
                from = at + 1;
            }
            _ => {}
        }
    }
}

/// Files of which each is reached from each other one.
fn circles(arrows: &Arrows) -> Vec<BTreeSet<Module>> {
    let reached: BTreeMap<&Module, BTreeSet<&Module>> = arrows.keys().map(|from| (from, reach(arrows, from))).collect();
    let mut circles: Vec<BTreeSet<Module>> = Vec::new();
    for (from, to) in &reached {
        if to.contains(from) && !circles.iter().any(|circle| circle.contains(*from)) {
            let back = to.iter().filter(|module| reached[*module].contains(from));
            circles.push(back.map(|module| (*module).clone()).collect());
        }
    }
    circles
}

fn reach<'a>(arrows: &'a Arrows, from: &Module) -> BTreeSet<&'a Module> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&Module> = arrows[from].keys().collect();
    while let Some(module) = next.pop() {
        if reached.insert(module) {
            next.extend(arrows[module].keys());
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circles_of(files: &[(&str, &str)]) -> Vec<Vec<String>> {
        let texts = files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect();
        let found = circles(&Crate::new(texts).arrows());
        found.iter().map(|circle| circle.iter().map(|module| module.join("::")).collect()).collect()
    }

    #[test]
    fn finds_a_circle_through_groups_renames_and_paths() {
        let found = circles_of(&[
            ("lib.rs", "mod a;\nmod b;\nmod c;\npub use a::A;"),
            ("a.rs", "use crate::{\n    b::{B as Other, self},\n    d::D,\n};"),
            ("b.rs", "fn f() { super::c::g::<u8>() }"),
            ("c.rs", "pub(crate) use crate::a::A;"),
            ("d.rs", "use std::fmt;"),
        ]);
        assert_eq!(found, [["a", "b", "c"]]);
    }

    #[test]
    fn a_child_that_needs_its_parent_is_a_circle_unless_the_parent_only_hands_it_on() {
        let child = ("store/memory.rs", "use super::Store;");
        assert!(
            circles_of(&[("lib.rs", ""), ("store/mod.rs", "mod memory;\npub use memory::Memory;"), child]).is_empty()
        );
        let found = circles_of(&[("lib.rs", ""), ("store/mod.rs", "mod memory;\nuse memory::Memory;"), child]);
        assert_eq!(found, [["store", "store::memory"]]);
    }

    #[test]
    fn comments_and_tests_are_no_imports() {
        let found = circles_of(&[
            ("lib.rs", "mod a;\nmod b;\n#[cfg(any(test, feature = \"testing\"))]\npub mod conformance;"),
            ("a.rs", "// use crate::b::B;\n#[cfg(test)]\nmod tests {\n    use crate::b::B;\n}"),
            ("b.rs", "use crate::a::A;\n/// See crate::conformance.\nstruct B;"),
            ("conformance/mod.rs", "use crate::a::A; use self::sub::Sub;"),
            ("conformance/sub.rs", "use super::Rule;"),
        ]);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn names_of_other_crates_are_no_files() {
        let found = circles_of(&[
            ("lib.rs", "use tokio::time;\nmod time;\nmod a;"),
            ("time.rs", "use crate::a::A;"),
            ("a.rs", "use serde::time;"),
        ]);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn counts_lines_without_tests() {
        let texts = vec![(PathBuf::from("lib.rs"), "a\nb\n#[cfg(test)]\nmod tests {\n}\n".to_owned())];
        assert_eq!(Crate::new(texts).files[&Module::new()].lines, 2);
    }

    #[test]
    fn reads_the_members_of_this_workspace() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert!(members(root).unwrap().contains(&"xtask".to_owned()));
    }
}
