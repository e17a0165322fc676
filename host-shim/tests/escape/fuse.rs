//! Requests of FUSE (`linux/fuse.h`), as a guest's kernel would never send them: names are what the test likes.

use std::path::Path;

use rustix::io::Errno;

use crate::vhost::Queue;

/// The root's number.
pub(crate) const ROOT: u64 = 1;

/// Operations.
const LOOKUP: u32 = 1;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const READLINK: u32 = 5;
const SYMLINK: u32 = 6;
const MKNOD: u32 = 8;
const MKDIR: u32 = 9;
const UNLINK: u32 = 10;
const RMDIR: u32 = 11;
const RENAME: u32 = 12;
const LINK: u32 = 13;
const OPEN: u32 = 14;
const READ: u32 = 15;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const CREATE: u32 = 35;

/// Bytes before each request's and each answer's own.
const HEAD_BYTES: usize = 40;
const ANSWER_HEAD_BYTES: usize = 16;

/// Places in an entry, which ends with the attributes.
const ENTRY_INODE: usize = 40;
const ENTRY_MODE: usize = 100;

/// What an operation came to: its bytes, or an error's number.
pub(crate) type Answer = Result<Vec<u8>, Errno>;

/// What a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Names it in other requests.
    pub(crate) node: u64,
    /// On the host.
    pub(crate) inode: u64,
    /// Kind and rights.
    pub(crate) mode: u32,
}

/// A guest that says what it likes to its file server.
#[derive(Debug)]
pub(crate) struct Guest {
    queue: Queue,
    last: u64,
}

impl Guest {
    pub(crate) fn connect(socket: &Path) -> Self {
        let queue = Queue::connect(socket);
        let mut guest = Self { queue, last: 0 };
        let version: [u32; 4] = [7, 31, 0, 0];
        guest
            .ask(INIT, 0, &version.map(u32::to_le_bytes).concat())
            .unwrap();
        guest
    }

    fn ask(&mut self, operation: u32, node: u64, body: &[u8]) -> Answer {
        self.last += 1;
        let length = u32::try_from(HEAD_BYTES + body.len()).unwrap();
        let request = [
            &length.to_le_bytes()[..],
            &operation.to_le_bytes(),
            &self.last.to_le_bytes(),
            &node.to_le_bytes(),
            // User, group and process 0.
            &[0; 16],
            body,
        ];
        let answer = self.queue.call(&request.concat());
        let error = i32::from_le_bytes(answer[4..8].try_into().unwrap());
        let about = u64::from_le_bytes(answer[8..16].try_into().unwrap());
        assert_eq!(about, self.last, "an answer to another request");
        if error != 0 {
            return Err(Errno::from_raw_os_error(-error));
        }
        Ok(answer[ANSWER_HEAD_BYTES..].to_vec())
    }

    fn entry(&mut self, operation: u32, node: u64, body: &[u8]) -> Result<Entry, Errno> {
        let answer = self.ask(operation, node, body)?;
        let word = |at: usize| u64::from_le_bytes(answer[at..at + 8].try_into().unwrap());
        let mode = answer[ENTRY_MODE..ENTRY_MODE + 4].try_into().unwrap();
        Ok(Entry {
            node: word(0),
            inode: word(ENTRY_INODE),
            mode: u32::from_le_bytes(mode),
        })
    }

    pub(crate) fn lookup(&mut self, parent: u64, name: &str) -> Result<Entry, Errno> {
        self.entry(LOOKUP, parent, &words(&[name]))
    }

    pub(crate) fn attributes(&mut self, node: u64) -> Answer {
        self.ask(GETATTR, node, &[0; 16])
    }

    /// Cuts a file to no length: `FATTR_SIZE` and zeros.
    pub(crate) fn truncate(&mut self, node: u64) -> Answer {
        let mut body = [0; 88];
        body[0] = 1 << 3;
        self.ask(SETATTR, node, &body)
    }

    pub(crate) fn read_link(&mut self, node: u64) -> Answer {
        self.ask(READLINK, node, &[])
    }

    pub(crate) fn make_link(&mut self, parent: u64, name: &str, to: &str) -> Result<Entry, Errno> {
        self.entry(SYMLINK, parent, &words(&[name, to]))
    }

    pub(crate) fn hard_link(&mut self, parent: u64, name: &str, to: u64) -> Result<Entry, Errno> {
        let body = [&to.to_le_bytes()[..], &words(&[name])].concat();
        self.entry(LINK, parent, &body)
    }

    /// A file, by `mknod`.
    pub(crate) fn make_node(&mut self, parent: u64, name: &str) -> Result<Entry, Errno> {
        let body = [&0o100_644_u32.to_le_bytes()[..], &[0; 12], &words(&[name])].concat();
        self.entry(MKNOD, parent, &body)
    }

    pub(crate) fn make_dir(&mut self, parent: u64, name: &str) -> Result<Entry, Errno> {
        let body = [&0o755_u32.to_le_bytes()[..], &[0; 4], &words(&[name])].concat();
        self.entry(MKDIR, parent, &body)
    }

    /// A file, made and opened for writing.
    pub(crate) fn create(&mut self, parent: u64, name: &str) -> Result<Entry, Errno> {
        let how: [u32; 4] = [0o101, 0o644, 0, 0];
        let body = [how.map(u32::to_le_bytes).concat(), words(&[name])].concat();
        self.entry(CREATE, parent, &body)
    }

    pub(crate) fn unlink(&mut self, parent: u64, name: &str) -> Answer {
        self.ask(UNLINK, parent, &words(&[name]))
    }

    pub(crate) fn remove_dir(&mut self, parent: u64, name: &str) -> Answer {
        self.ask(RMDIR, parent, &words(&[name]))
    }

    /// Within one folder.
    pub(crate) fn rename(&mut self, parent: u64, from: &str, to: &str) -> Answer {
        let body = [&parent.to_le_bytes()[..], &words(&[from, to])].concat();
        self.ask(RENAME, parent, &body)
    }

    pub(crate) fn open_dir(&mut self, node: u64) -> Answer {
        self.ask(OPENDIR, node, &[0; 8])
    }

    /// A whole small file.
    pub(crate) fn read_file(&mut self, node: u64) -> Answer {
        let opened = self.ask(OPEN, node, &[0; 8])?;
        self.read(node, opened[..8].try_into().unwrap())
    }

    /// From an open file, by its number.
    pub(crate) fn read(&mut self, node: u64, handle: [u8; 8]) -> Answer {
        let mut body = [0; 40];
        body[..8].copy_from_slice(&handle);
        body[16..20].copy_from_slice(&4096_u32.to_le_bytes());
        self.ask(READ, node, &body)
    }
}

/// Each with the zero at its end.
fn words(words: &[&str]) -> Vec<u8> {
    words
        .iter()
        .flat_map(|word| [word.as_bytes(), &[0]].concat())
        .collect()
}
