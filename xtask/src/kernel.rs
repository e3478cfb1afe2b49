//! The stock Debian cloud kernel: fetched once from the archive, unpacked, never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bzimage;
use crate::error::{Error, FileContext, Result};
use crate::{packages, process};

/// The package that always depends on the newest kernel of its kind.
const META_PACKAGE: &str = "linux-image-cloud-amd64";
/// The unpacked package, below the Linux directory.
const UNPACKED: &str = "debian-kernel";

/// A kernel with its modules, unpacked.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The bzImage.
    pub bzimage: PathBuf,
    /// The ELF kernel that was taken out of it.
    pub vmlinux: PathBuf,
    /// `lib/modules/VERSION/kernel`.
    modules: PathBuf,
}

impl Kernel {
    /// The kernel below `directory`, fetched when it is not there yet.
    ///
    /// Everything happens in a temporary directory that gets its name when it is complete, so that
    /// an interrupted run leaves nothing that looks whole.
    ///
    /// # Errors
    ///
    /// When the archive cannot be reached, or what it sent is not as expected.
    pub fn ensure(directory: &Path) -> Result<Self> {
        let unpacked = directory.join(UNPACKED);
        if !unpacked.is_dir() {
            let scratch =
                tempfile::tempdir_in(directory).file("create a directory in", directory)?;
            fetch(scratch.path())?;
            fs::rename(scratch.path().join("root"), &unpacked).file("create", &unpacked)?;
        }
        Self::open(&unpacked)
    }

    fn open(unpacked: &Path) -> Result<Self> {
        let boot = unpacked.join("boot");
        let modules = only_entry(&unpacked.join(modules_directory(unpacked)))?.join("kernel");
        Ok(Self {
            bzimage: entry_with_prefix(&boot, "vmlinuz-")?,
            vmlinux: boot.join("vmlinux"),
            modules,
        })
    }

    /// The contents of module `name` and of all that it needs, each after what it needs itself.
    ///
    /// # Errors
    ///
    /// When a module is missing or cannot be read.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
        let mut found = Vec::new();
        for name in names {
            self.add_module(name, &mut found)?;
        }
        Ok(found)
    }

    fn add_module(&self, name: &str, found: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
        if found.iter().any(|(known, _)| known == name) {
            return Ok(());
        }
        let file = find_module(&self.modules, name)?.ok_or_else(|| Error::Kernel {
            path: self.bzimage.clone(),
            reason: format!("its package has no module {name}"),
        })?;
        let contents = read_module(&file)?;
        for needed in dependencies(&contents) {
            self.add_module(&needed, found)?;
        }
        found.push((name.to_owned(), contents));
        Ok(())
    }
}

/// Downloads the kernel package into `scratch` and unpacks it to `scratch/root`, with `vmlinux`.
fn fetch(scratch: &Path) -> Result<()> {
    packages::ensure_lists()?;
    let package = match versioned_package() {
        Ok(name) => name,
        Err(_) => packages::update_lists().and_then(|()| versioned_package())?,
    };
    eprintln!("Fetching {package} from the Debian archive");
    if download(&package, scratch).is_err() {
        // Old lists name a version that the archive no longer has.
        packages::update_lists()?;
        download(&versioned_package()?, scratch)?;
    }
    let file = entry_with_prefix(scratch, "linux-image-")?;
    let root = scratch.join("root");
    process::output(Command::new("dpkg").arg("-x").arg(&file).arg(&root))?;

    let bzimage = entry_with_prefix(&root.join("boot"), "vmlinuz-")?;
    let image = fs::read(&bzimage).file("read", &bzimage)?;
    let elf = bzimage::extract_elf(&image).map_err(|reason| Error::Kernel {
        path: bzimage.clone(),
        reason,
    })?;
    let vmlinux = root.join("boot/vmlinux");
    fs::write(&vmlinux, elf).file("write", &vmlinux)
}

/// The package with a version in its name that the meta package stands for.
fn versioned_package() -> Result<String> {
    let text = process::output(Command::new("apt-cache").args(["depends", META_PACKAGE]))?;
    first_dependency(&text).ok_or_else(|| {
        Error::Check(format!(
            "The package lists do not know {META_PACKAGE}: is this Debian, and does \
             `apt-cache policy {META_PACKAGE}` find it?"
        ))
    })
}

fn first_dependency(text: &str) -> Option<String> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .map(str::to_owned)
}

fn download(package: &str, directory: &Path) -> Result<()> {
    process::output(
        Command::new("apt-get")
            .args(["-q", "download", package])
            .current_dir(directory),
    )
    .map(drop)
}

/// Where the modules are: newer packages ship `/usr/lib`, older ones `/lib`.
fn modules_directory(unpacked: &Path) -> &'static str {
    if unpacked.join("usr/lib/modules").is_dir() {
        "usr/lib/modules"
    } else {
        "lib/modules"
    }
}

fn only_entry(directory: &Path) -> Result<PathBuf> {
    entry_with_prefix(directory, "")
}

fn entry_with_prefix(directory: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(directory).file("read", directory)?;
    entries
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .ok_or_else(|| {
            Error::Check(format!(
                "There is no file {prefix}* in {}",
                directory.display()
            ))
        })
}

/// The file of module `name` below `directory`; file names have `-` where module names may not.
fn find_module(directory: &Path, name: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(directory).file("read", directory)?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = find_module(&path, name)? {
                return Ok(Some(found));
            }
        } else if module_name(&entry.file_name().to_string_lossy()).as_deref() == Some(name) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// The module that a file of this name holds, compressed or not.
fn module_name(file: &str) -> Option<String> {
    let stem = file
        .strip_suffix(".ko")
        .or_else(|| file.strip_suffix(".ko.xz"))?;
    Some(stem.replace('-', "_"))
}

fn read_module(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_some_and(|extension| extension == "ko") {
        return fs::read(file).file("read", file);
    }
    packages::ensure(&[packages::XZ])?;
    let mut command = Command::new("xz");
    command.args(["--decompress", "--stdout"]).arg(file);
    let output = command.output().map_err(|source| Error::Start {
        command: process::describe(&command),
        source,
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(Error::Failed {
        command: process::describe(&command),
        status: output.status,
        output: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// The modules that a module says it needs: `depends=a,b` in its `.modinfo` section.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = module[start + KEY.len()..]
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default();
    String::from_utf8_lossy(value)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meta_package_gives_the_versioned_one() {
        let text = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(
            first_dependency(text).unwrap(),
            "linux-image-6.1.0-56-cloud-amd64"
        );
    }

    #[test]
    fn dependencies_are_read_from_the_module_information() {
        let module = b"\x7fELF..\0license=GPL\0depends=virtio,virtio-ring\0name=x\0";
        assert_eq!(dependencies(module), ["virtio", "virtio_ring"]);
    }

    #[test]
    fn module_without_dependencies_has_none() {
        assert!(dependencies(b"\0depends=\0name=x\0").is_empty());
    }

    #[test]
    fn file_names_tell_modules() {
        assert_eq!(module_name("kvm-amd.ko").as_deref(), Some("kvm_amd"));
        assert_eq!(module_name("virtio.ko.xz").as_deref(), Some("virtio"));
        assert_eq!(module_name("modules.dep"), None);
    }
}
