//! `cargo xtask licenses`: the licence texts that go with the shipped binaries, in one file.
//!
//! They are those of the packages that are linked into the binaries `aerostat` and `aerostat-ctl`
//! on x86-64 Linux: their normal dependencies and theirs, not what builds or tests them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, FileContext, Result};
use crate::process;
use crate::workspace::{self, Workspace};

/// The file, at the root of the tree.
const FILE: &str = "THIRD-PARTY.md";
/// Target for which dependencies count.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";
/// The shipped packages, each with a binary of its name.
const PACKAGES: [&str; 2] = ["aerostat", "aerostat-ctl"];
/// Beginnings of the names of files with licence texts and notices, in capitals.
const TEXT_FILES: &[&str] = &[
    "LICENSE",
    "LICENCE",
    "COPYING",
    "COPYRIGHT",
    "NOTICE",
    "UNLICENSE",
];

/// A dependency with its licence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Dependency {
    name: String,
    version: String,
    license: String,
    directory: PathBuf,
}

/// Writes the file.
///
/// # Errors
///
/// When a dependency's texts cannot be read.
pub fn run() -> Result<()> {
    let workspace = Workspace::find()?;
    let path = workspace.root.join(FILE);
    fs::write(&path, document(&workspace)?).file("write", &path)?;
    println!("Wrote {}", path.display());
    Ok(())
}

/// Checks that the file says what [`run`] would write.
///
/// # Errors
///
/// When it does not.
pub fn check(workspace: &Workspace) -> Result<()> {
    let path = workspace.root.join(FILE);
    let current = fs::read_to_string(&path).file("read", &path)?;
    if current == document(workspace)? {
        println!("{FILE} is current.");
        return Ok(());
    }
    Err(Error::Check(format!(
        "{FILE} is not current: run `cargo xtask licenses`"
    )))
}

fn document(workspace: &Workspace) -> Result<String> {
    let metadata = workspace::metadata(
        &workspace.root,
        &["--locked", "--filter-platform", PLATFORM],
    )?;
    // Each by itself: built together, they would have each other's features.
    let mut dependencies: BTreeMap<Dependency, Vec<&str>> = BTreeMap::new();
    for package in PACKAGES {
        for dependency in linked(&tree(workspace, package)?, &metadata)? {
            dependencies.entry(dependency).or_default().push(package);
        }
    }
    let mut users: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for dependency in dependencies.keys() {
        let label = format!("{} {}", dependency.name, dependency.version);
        let mut texts = texts(&dependency.directory)?;
        if texts.is_empty() {
            texts.insert(standard_text(dependency, &workspace.root)?);
        }
        for text in texts {
            users.entry(text).or_default().insert(label.clone());
        }
    }
    Ok(render(&dependencies, &users))
}

/// What `cargo tree` says of a package's normal dependencies, one a line.
fn tree(workspace: &Workspace, package: &str) -> Result<String> {
    process::output(workspace.cargo().args([
        "tree",
        "--locked",
        "--package",
        package,
        "--target",
        PLATFORM,
        "--prefix",
        "none",
        "--edges",
        "normal,no-proc-macro",
    ]))
}

/// The packages that are linked into a binary, without those of this workspace.
///
/// `cargo tree` says which they are: it knows the features with which the binary is built, where
/// `cargo metadata` has those of the whole workspace. That one says where they are.
fn linked(tree: &str, metadata: &Value) -> Result<BTreeSet<Dependency>> {
    let malformed = || Error::Check("`cargo metadata` has another form than expected".to_owned());
    let names: BTreeSet<(&str, &str)> = tree.lines().filter_map(name_and_version).collect();
    metadata["packages"]
        .as_array()
        .ok_or_else(malformed)?
        .iter()
        .filter(|package| !package["source"].is_null())
        .map(|package| dependency(package).ok_or_else(malformed))
        .filter(|package| {
            let known = |one: &Dependency| names.contains(&(&*one.name, &*one.version));
            package.as_ref().map_or(true, known)
        })
        .collect()
}

/// Name and version in a line as `libc v0.2.191 (*)`.
fn name_and_version(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split_whitespace();
    Some((words.next()?, words.next()?.strip_prefix('v')?))
}

fn dependency(package: &Value) -> Option<Dependency> {
    let text = |key: &str| package[key].as_str().map(str::to_owned);
    Some(Dependency {
        name: text("name")?,
        version: text("version")?,
        license: text("license").unwrap_or_else(|| "see its texts below".to_owned()),
        directory: Path::new(&text("manifest_path")?).parent()?.to_owned(),
    })
}

/// The licence texts in a package's directory, with line ends and outer blank lines made alike.
fn texts(directory: &Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).file("read", directory)?.flatten() {
        let name = entry.file_name().to_string_lossy().to_uppercase();
        if entry.path().is_file() && TEXT_FILES.iter().any(|prefix| name.starts_with(prefix)) {
            let path = entry.path();
            let text = fs::read_to_string(&path).file("read", &path)?;
            found.insert(normalized(&text));
        }
    }
    Ok(found)
}

/// The text of a package that ships none, where it may be taken under Apache-2.0, whose text is the
/// same for everyone.
fn standard_text(dependency: &Dependency, root: &Path) -> Result<String> {
    if !dependency.license.contains("Apache-2.0") {
        return Err(Error::Check(format!(
            "{} {} ({}) ships no licence text",
            dependency.name, dependency.version, dependency.license
        )));
    }
    let path = root.join("LICENSE-APACHE");
    fs::read_to_string(&path)
        .file("read", &path)
        .map(|text| normalized(&text))
}

fn normalized(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n").trim_matches('\n').to_owned()
}

fn render(
    dependencies: &BTreeMap<Dependency, Vec<&str>>,
    users: &BTreeMap<String, BTreeSet<String>>,
) -> String {
    let mut text = String::from(
        "# Third-party licences\n\n\
         The binaries contain these packages, each under the licence named; their texts follow.\n\
         Written by `cargo xtask licenses`.\n\n\
         | package | licence | binary |\n| --- | --- | --- |\n",
    );
    for (dependency, binaries) in dependencies {
        let Dependency {
            name,
            version,
            license,
            ..
        } = dependency;
        let binaries = binaries.join(", ");
        text.push_str(&format!("| {name} {version} | {license} | {binaries} |\n"));
    }
    for (license, packages) in users {
        let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
        text.push_str(&format!(
            "\n## {}\n\n```text\n{license}\n```\n",
            packages.join(", ")
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn package(name: &str, source: &Value) -> Value {
        json!({
            "name": name, "version": "1.0.0", "license": "MIT", "source": source,
            "manifest_path": format!("/r/{name}/Cargo.toml"),
        })
    }

    #[test]
    fn only_linked_packages_of_others_count() {
        let tree = "aerostat v1.0.0 (/w)\nlinked v1.0.0\nlinked v1.0.0 (*)\n";
        let metadata = json!({ "packages": [
            package("aerostat", &Value::Null),
            package("linked", &json!("registry")),
            package("tester", &json!("registry")),
        ] });
        let linked = linked(tree, &metadata).unwrap();
        let names: Vec<&str> = linked.iter().map(|package| package.name.as_str()).collect();
        assert_eq!(names, ["linked"]);
    }

    #[test]
    fn texts_that_differ_in_line_ends_are_one() {
        assert_eq!(normalized("\na \r\nb\r\n\r\n"), normalized("a\nb\n"));
    }
}
