//! Files that the host copies into the guest piece by piece, all below one folder. The kernel itself holds
//! every step inside of it (`openat2(2)`, `RESOLVE_BENEATH`): neither `..` nor a symbolic link leads out.
//!
//! A file grows beside its place as `.NAME.part` and is renamed when its last byte is there, so nobody ever
//! sees half of one.

use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, fchmod, fchown, mkdirat,
        open, renameat, symlinkat, unlinkat,
    },
    io::Errno,
};
use thiserror::Error;

use crate::sys::file;

/// The longest path, `PATH_MAX` of `linux/limits.h` less the terminating zero.
const MAX_PATH_BYTES: usize = 4095;

/// The longest name of a file, less what the part's name adds.
const MAX_NAME_BYTES: usize = 255 - 6;

/// The mode of directories for which the host names none.
const DIRECTORY_MODE: u32 = 0o750;

/// Permissions and the three special bits.
const PERMISSIONS: u32 = 0o7777;

/// Why a piece was not taken.
#[derive(Debug, Error)]
pub enum CopyError {
    /// The path is not below the folder.
    #[error("{path:?} is no path below {}", root.display())]
    Outside {
        /// The path as it came.
        path: String,
        /// The folder.
        root: PathBuf,
    },
    /// A symbolic link would lead out.
    #[error("{0:?} leads out of the folder for copied files")]
    Escapes(String),
    /// Sizes and offsets that cannot be meant.
    #[error("{0}")]
    Piece(String),
    /// A kind of file that is not copied.
    #[error("mode {0:o} is neither a file, a directory nor a symbolic link")]
    Kind(u32),
    /// A piece before the piece in front of it.
    #[error("{path}: the piece at {offset} comes before the bytes in front of it")]
    TooEarly {
        /// The file.
        path: String,
        /// Where the piece belongs.
        offset: u64,
    },
    /// The kernel refused something.
    #[error("{path} cannot be copied")]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// One piece of a file, or a whole directory or link.
#[derive(Debug, Clone, Default)]
pub struct Piece {
    /// Where it goes, absolute.
    pub path: String,
    /// How long the whole file is.
    pub file_size: i64,
    /// Kind and permissions, as in `st_mode`.
    pub file_mode: u32,
    /// Permissions of directories that are made on the way.
    pub dir_mode: u32,
    /// Its owner; -1 leaves root.
    pub uid: i32,
    /// Its group; -1 leaves root.
    pub gid: i32,
    /// Where in the file the bytes belong.
    pub offset: i64,
    /// The bytes, or the target of a link.
    pub data: Vec<u8>,
}

/// Takes one piece.
pub fn take(root: &Path, piece: &Piece) -> Result<(), CopyError> {
    let relative = below(root, &piece.path)?;
    let failed = |source: io::Error| match Errno::from_io_error(&source) {
        // What `RESOLVE_BENEATH` says of a way out.
        Some(Errno::XDEV | Errno::LOOP) => CopyError::Escapes(piece.path.clone()),
        _ => CopyError::Io {
            path: piece.path.clone(),
            source,
        },
    };
    file::make_directories(root).map_err(failed)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = open(root, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
    let (Some(parent), Some(name)) = (relative.parent(), relative.file_name()) else {
        return Err(outside(root, &piece.path));
    };
    let name = Path::new(name);
    let folder = folder(&top, parent, piece.dir_mode).map_err(failed)?;
    match FileType::from_raw_mode(piece.file_mode) {
        FileType::Directory => directory(&folder, name, piece).map_err(failed),
        FileType::Symlink => {
            let depth = parent.components().count();
            let target =
                target(&piece.data, depth).ok_or_else(|| CopyError::Escapes(piece.path.clone()))?;
            link(&folder, name, &target, piece).map_err(failed)
        }
        // Shims that send only permissions mean a file.
        FileType::RegularFile | FileType::Unknown if piece.file_mode <= 0o177_777 => {
            regular(&folder, name, piece, failed)
        }
        _ => Err(CopyError::Kind(piece.file_mode)),
    }
}

fn outside(root: &Path, path: &str) -> CopyError {
    CopyError::Outside {
        path: path.chars().take(256).collect(),
        root: root.to_owned(),
    }
}

/// The part of `path` below `root`: at least one name, none of them `.` or `..`.
fn below(root: &Path, path: &str) -> Result<PathBuf, CopyError> {
    let odd = path.len() > MAX_PATH_BYTES
        || path.contains('\0')
        || path.split('/').any(|part| part == "." || part == "..");
    let relative = Path::new(path).strip_prefix(root).ok();
    let relative = relative.filter(|relative| {
        !odd && relative
            .components()
            .all(|part| matches!(part, Component::Normal(name) if name.len() <= MAX_NAME_BYTES))
    });
    match relative {
        Some(relative) if relative.file_name().is_some() => Ok(relative.to_owned()),
        _ => Err(outside(root, path)),
    }
}

/// The folder `path` below `top`, made where it is missing.
fn folder(top: &OwnedFd, path: &Path, mode: u32) -> io::Result<OwnedFd> {
    let mode = match mode & PERMISSIONS {
        0 => DIRECTORY_MODE,
        mode => mode,
    };
    let mut now = beneath(top, Path::new("."), OFlags::PATH | OFlags::DIRECTORY)?;
    let mut so_far = PathBuf::new();
    for part in path.components() {
        so_far.push(part);
        now = match beneath(top, &so_far, OFlags::PATH | OFlags::DIRECTORY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_directory(&now, Path::new(part.as_os_str()), mode)?;
                beneath(top, &so_far, OFlags::PATH | OFlags::DIRECTORY)?
            }
            other => other?,
        };
    }
    Ok(now)
}

fn beneath(top: &OwnedFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    file::open_resolved(top, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Opens `name` itself, not what a link of that name leads to.
fn open_in(folder: &OwnedFd, name: &Path, flags: OFlags, mode: u32) -> io::Result<File> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    // openat2(2) wants none where nothing is made.
    let mode = if flags.contains(OFlags::CREATE) {
        Mode::from_raw_mode(mode)
    } else {
        Mode::empty()
    };
    Ok(file::open_resolved(folder, name, flags, mode, resolve)?.into())
}

/// Makes it with exactly `mode`, whatever the umask is.
fn make_directory(folder: &OwnedFd, name: &Path, mode: u32) -> io::Result<()> {
    match mkdirat(folder, name, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let made = open_in(folder, name, OFlags::DIRECTORY, 0)?;
    Ok(fchmod(made, Mode::from_raw_mode(mode))?)
}

fn directory(folder: &OwnedFd, name: &Path, piece: &Piece) -> io::Result<()> {
    make_directory(folder, name, piece.file_mode & PERMISSIONS)?;
    let made = open_in(folder, name, OFlags::DIRECTORY, 0)?;
    let (uid, gid) = owner(piece);
    Ok(fchown(made, uid, gid)?)
}

/// The target of a link, when it stays inside: relative, and not more steps up than the link is deep.
fn target(data: &[u8], depth: usize) -> Option<PathBuf> {
    let text = std::str::from_utf8(data).ok()?;
    let path = Path::new(text);
    if text.is_empty() || text.len() > MAX_PATH_BYTES || text.contains('\0') {
        return None;
    }
    let mut depth = depth;
    for part in path.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir => depth = depth.checked_sub(1)?,
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(path.to_owned())
}

fn link(folder: &OwnedFd, name: &Path, target: &Path, piece: &Piece) -> io::Result<()> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    symlinkat(target, folder, name)?;
    let (uid, gid) = owner(piece);
    Ok(chownat(folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn regular(
    folder: &OwnedFd,
    name: &Path,
    piece: &Piece,
    failed: impl Fn(io::Error) -> CopyError,
) -> Result<(), CopyError> {
    let number = |value: i64, what| {
        u64::try_from(value).map_err(|_| CopyError::Piece(format!("{what} {value} is negative")))
    };
    let (size, offset) = (
        number(piece.file_size, "size")?,
        number(piece.offset, "offset")?,
    );
    // Both come from at most 4 MiB and an i64.
    let end = offset.saturating_add(piece.data.len().try_into().unwrap_or(u64::MAX));
    if end > size {
        let text = format!("a piece up to {end} does not belong to a file of {size} bytes");
        return Err(CopyError::Piece(text));
    }
    let mut part = std::ffi::OsString::from(".");
    part.push(name);
    part.push(".part");
    let part = Path::new(&part);
    let mut flags = OFlags::RDWR;
    if offset == 0 {
        flags |= OFlags::CREATE | OFlags::TRUNC;
    }
    let early = || CopyError::TooEarly {
        path: piece.path.clone(),
        offset,
    };
    let file = match open_in(folder, part, flags, 0o600) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(early()),
        other => other.map_err(&failed)?,
    };
    if file.metadata().map_err(&failed)?.len() < offset {
        return Err(early());
    }
    let finish = || -> io::Result<()> {
        file.write_all_at(&piece.data, offset)?;
        if file.metadata()?.len() < size {
            return Ok(());
        }
        let (uid, gid) = owner(piece);
        fchown(&file, uid, gid)?;
        // After the owner, whose change takes away the special bits.
        let mode = Mode::from_raw_mode(piece.file_mode & PERMISSIONS);
        fchmod(&file, mode)?;
        Ok(renameat(folder, part, folder, name)?)
    };
    finish().map_err(failed)
}

fn owner(piece: &Piece) -> (Option<Uid>, Option<Gid>) {
    (
        u32::try_from(piece.uid).ok().map(Uid::from_raw),
        u32::try_from(piece.gid).ok().map(Gid::from_raw),
    )
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use super::*;

    const FILE: u32 = 0o100_000;
    const FOLDER: u32 = 0o040_000;
    const LINK: u32 = 0o120_000;

    struct Lab {
        directory: tempfile::TempDir,
    }

    impl Lab {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            fs::create_dir(directory.path().join("outside")).unwrap();
            Self { directory }
        }

        fn root(&self) -> PathBuf {
            self.directory.path().join("root")
        }

        fn take(&self, name: &str, mode: u32, data: &[u8]) -> Result<(), CopyError> {
            self.piece(name, mode, data, i64::try_from(data.len()).unwrap(), 0)
        }

        fn piece(
            &self,
            name: &str,
            mode: u32,
            data: &[u8],
            size: i64,
            offset: i64,
        ) -> Result<(), CopyError> {
            let piece = Piece {
                path: format!("{}/{name}", self.root().display()),
                file_size: size,
                file_mode: mode,
                dir_mode: 0o711,
                uid: -1,
                gid: -1,
                offset,
                data: data.to_owned(),
            };
            take(&self.root(), &piece)
        }

        fn outside_is_empty(&self) -> bool {
            let mut entries = fs::read_dir(self.directory.path().join("outside")).unwrap();
            entries.next().is_none()
        }
    }

    #[test]
    fn a_file_appears_when_its_last_piece_is_there() {
        let lab = Lab::new();
        let path = lab.root().join("a/b/token");
        let early = lab.piece("a/b/token", FILE | 0o640, b"world", 10, 5);
        assert!(matches!(early, Err(CopyError::TooEarly { .. })));
        lab.piece("a/b/token", FILE | 0o640, b"hello", 10, 0)
            .unwrap();
        assert!(!path.exists());
        lab.piece("a/b/token", FILE | 0o640, b"world", 10, 5)
            .unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"helloworld");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&path), 0o640);
        assert_eq!(mode(&lab.root().join("a")), 0o711);
        lab.take("a/b/token", FILE | 0o600, b"").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
        assert_eq!(fs::read_dir(lab.root().join("a/b")).unwrap().count(), 1);
    }

    #[test]
    fn directories_and_links_inside_are_made_and_followed() {
        let lab = Lab::new();
        lab.take("v/..2026", FOLDER | 0o755, b"").unwrap();
        lab.take("v/..2026/key", FILE | 0o444, b"1").unwrap();
        lab.take("v/..data", LINK | 0o777, b"..2026").unwrap();
        lab.take("v/key", LINK | 0o777, b"..data/key").unwrap();
        assert_eq!(fs::read(lab.root().join("v/key")).unwrap(), b"1");
        lab.take("v/..data/more", FILE | 0o444, b"2").unwrap();
        assert_eq!(fs::read(lab.root().join("v/..2026/more")).unwrap(), b"2");
        lab.take("v/..data", LINK | 0o777, b"..2027").unwrap();
        let target = fs::read_link(lab.root().join("v/..data")).unwrap();
        assert_eq!(target, Path::new("..2027"));
    }

    #[test]
    fn no_path_and_no_link_leads_out() {
        let lab = Lab::new();
        for name in [
            "../outside/x",
            "a/../../outside/x",
            "",
            ".",
            "a/./b",
            "a\0b",
        ] {
            let done = lab.take(name, FILE | 0o600, b"x");
            assert!(matches!(done, Err(CopyError::Outside { .. })), "{name:?}");
        }
        for target in ["/etc", "..", "../outside", "a/../../outside", ""] {
            let done = lab.take("l", LINK | 0o777, target.as_bytes());
            assert!(matches!(done, Err(CopyError::Escapes(_))), "{target:?}");
        }
        // Links that were there before, made by somebody else.
        fs::create_dir_all(lab.root()).unwrap();
        let outside = lab.directory.path().join("outside");
        for target in [outside.as_path(), Path::new("../outside")] {
            let _ = fs::remove_file(lab.root().join("out"));
            symlink(target, lab.root().join("out")).unwrap();
            for (name, mode) in [
                ("out/x", FILE | 0o600),
                ("out/d/x", FILE | 0o600),
                ("out/d", FOLDER),
            ] {
                let done = lab.take(name, mode, b"x");
                assert!(
                    matches!(done, Err(CopyError::Escapes(_))),
                    "{name} {done:?}"
                );
            }
        }
        // A link in the place of the file is replaced, not followed; one in the place of the part is refused.
        symlink(outside.join("y"), lab.root().join("y")).unwrap();
        lab.take("y", FILE | 0o600, b"x").unwrap();
        assert!(
            fs::symlink_metadata(lab.root().join("y"))
                .unwrap()
                .is_file()
        );
        symlink(outside.join("z"), lab.root().join(".z.part")).unwrap();
        assert!(lab.take("z", FILE | 0o600, b"x").is_err());
        assert!(lab.outside_is_empty());
    }

    #[test]
    fn sizes_that_cannot_be_meant_and_odd_kinds_are_refused() {
        let lab = Lab::new();
        for (size, offset) in [(-1, 0), (1, -1), (1, 1), (i64::MAX, i64::MAX)] {
            let done = lab.piece("a", FILE | 0o600, b"x", size, offset);
            assert!(matches!(done, Err(CopyError::Piece(_))), "{size} {offset}");
        }
        for kind in [0o060_000, 0o020_000, 0o010_000, u32::MAX] {
            let done = lab.take("a", kind, b"x");
            assert!(matches!(done, Err(CopyError::Kind(_))), "{kind:o}");
        }
    }
}
