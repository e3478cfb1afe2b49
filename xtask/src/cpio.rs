//! A writer for the archive form that Linux takes as its initial file system: cpio "newc"
//! (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! Entries carry no owner, no time and consecutive inode numbers, so that the same input gives the
//! same bytes.

use std::collections::BTreeSet;

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";
/// Headers with their names, and file contents, each end at a multiple of this.
const ALIGNMENT: usize = 4;

const DIRECTORY: u32 = 0o040_755;
const REGULAR: u32 = 0o100_644;
const EXECUTABLE: u32 = 0o100_755;
const SYMLINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive under construction, in memory.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    paths: BTreeSet<String>,
}

impl Archive {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory and those above it; nothing for one that is there already.
    pub fn directory(&mut self, path: &str) {
        let path = path.trim_matches('/');
        if path.is_empty() || self.paths.contains(path) {
            return;
        }
        self.parent_of(path);
        self.entry(path, DIRECTORY, (0, 0), b"");
    }

    /// Adds a file that can be read.
    pub fn file(&mut self, path: &str, contents: &[u8]) {
        self.leaf(path, REGULAR, contents);
    }

    /// Adds a file that can be executed.
    pub fn program(&mut self, path: &str, contents: &[u8]) {
        self.leaf(path, EXECUTABLE, contents);
    }

    /// Adds a symbolic link to `target`.
    pub fn link(&mut self, path: &str, target: &str) {
        self.leaf(path, SYMLINK, target.as_bytes());
    }

    /// Adds a character device, such as the console that the kernel opens before any init runs.
    pub fn device(&mut self, path: &str, major: u32, minor: u32) {
        let path = path.trim_matches('/');
        self.parent_of(path);
        self.entry(path, CHARACTER_DEVICE, (major, minor), b"");
    }

    /// The whole archive, with its end mark.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, (0, 0), b"");
        self.bytes
    }

    fn leaf(&mut self, path: &str, mode: u32, contents: &[u8]) {
        let path = path.trim_matches('/');
        if self.paths.contains(path) {
            return;
        }
        self.parent_of(path);
        self.entry(path, mode, (0, 0), contents);
    }

    fn parent_of(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, (major, minor): (u32, u32), contents: &[u8]) {
        self.entries += 1;
        self.paths.insert(path.to_owned());
        let fields = [
            // Inode, mode, owner, group, links, time.
            u64::from(self.entries),
            u64::from(mode),
            0,
            0,
            1,
            0,
            contents.len() as u64,
            // Device of the file, then the device that it is.
            0,
            0,
            u64::from(major),
            u64::from(minor),
            // The name's length counts its end mark; the checksum is unused in this form.
            path.len() as u64 + 1,
            0,
        ];
        self.bytes.extend_from_slice(MAGIC.as_bytes());
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes
            .resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(bytes: &[u8]) -> Vec<String> {
        let field = |at: usize| {
            let text = std::str::from_utf8(&bytes[at..at + 8]).unwrap();
            usize::from_str_radix(text, 16).unwrap()
        };
        let mut names = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let (size, name_size) = (field(at + 54), field(at + 94));
            let name = &bytes[at + 110..at + 110 + name_size - 1];
            names.push(String::from_utf8(name.to_vec()).unwrap());
            at = (at + 110 + name_size).next_multiple_of(4) + size.next_multiple_of(4);
        }
        names
    }

    #[test]
    fn parents_come_before_their_files_and_once() {
        let mut archive = Archive::new();
        archive.file("/a/b/c", b"1");
        archive.file("a/b/d", b"22");
        assert_eq!(
            names(&archive.finish()),
            ["a", "a/b", "a/b/c", "a/b/d", TRAILER]
        );
    }

    #[test]
    fn second_file_of_a_name_is_left_out() {
        let mut archive = Archive::new();
        archive.file("x", b"1");
        archive.program("/x", b"2");
        assert_eq!(names(&archive.finish()), ["x", TRAILER]);
    }

    #[test]
    fn header_of_a_file_is_as_specified() {
        let mut archive = Archive::new();
        archive.program("hi", b"abc");
        let bytes = archive.finish();
        assert_eq!(&bytes[..14], b"07070100000001");
        assert_eq!(&bytes[14..22], b"000081ed");
        assert_eq!(&bytes[110..120], b"hi\0\0\0\0abc\0");
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn device_numbers_are_written() {
        let mut archive = Archive::new();
        archive.device("dev/console", 5, 1);
        let bytes = archive.finish();
        let second = bytes
            .windows(6)
            .skip(1)
            .position(|window| window == b"070701")
            .unwrap()
            + 1;
        assert_eq!(&bytes[second + 78..second + 94], b"0000000500000001");
    }
}
