//! Owner and mode of a mount point: of the mount point alone, never of what is below it.
//!
//! Names are looked up in `/etc/passwd` and `/etc/group` only (`passwd(5)`, `group(5)`): this early in
//! the boot there is no other source, and the users of a closure are always there.

use std::{
    fmt, fs,
    io::{self, BufRead},
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::Path,
};

use rustix::fs::{Gid, Mode as OpenMode, OFlags, Uid, fchown, open};
use thiserror::Error;

use super::SpecError;

/// Who shall own a mount point, by name or number. Nobody named means root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnerNames {
    /// The user.
    pub user: Option<String>,
    /// The group; the user's own when only a user is named.
    pub group: Option<String>,
}

impl OwnerNames {
    /// True when neither is named.
    pub fn is_empty(&self) -> bool {
        self.user.is_none() && self.group.is_none()
    }
}

impl fmt::Display for OwnerNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.user, &self.group) {
            (None, None) => f.write_str("root"),
            (Some(user), None) => f.write_str(user),
            (user, Some(group)) => write!(f, "{}:{group}", user.as_deref().unwrap_or("root")),
        }
    }
}

/// Why an owner cannot be found.
#[derive(Debug, Error)]
pub enum OwnerError {
    /// The user is in no file.
    #[error(
        "user {0} does not exist in this guest; the owner of the volume is left as it is, root on a new one"
    )]
    User(String),
    /// The group is in no file.
    #[error(
        "group {0} does not exist in this guest; the owner of the volume is left as it is, root on a new one"
    )]
    Group(String),
    /// A file cannot be read.
    #[error("{0} cannot be read, so the owner of the volume is left as it is: {1}")]
    Read(String, io::Error),
}

/// Owner as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}

/// Root, the owner of a new file system.
pub const ROOT: Owner = Owner { uid: 0, gid: 0 };

/// A mode: permissions and the three special bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode(u32);

impl Mode {
    /// The bits, at most `0o7777`.
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl From<u32> for Mode {
    /// What is no permission is left out.
    fn from(bits: u32) -> Self {
        Self(bits & 0o7777)
    }
}

impl TryFrom<&str> for Mode {
    type Error = SpecError;

    fn try_from(text: &str) -> Result<Self, SpecError> {
        let octal =
            (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        match u32::from_str_radix(text, 8) {
            Ok(bits) if octal => Ok(Self(bits)),
            _ => Err(SpecError::Mode(text.to_owned())),
        }
    }
}

/// Looks the names up in `passwd` and `group` below `etc`.
pub fn resolve(names: &OwnerNames, etc: &Path) -> Result<Owner, OwnerError> {
    let mut owner = ROOT;
    if let Some(user) = &names.user {
        let fields = lookup(&etc.join("passwd"), user)?;
        // name:password:uid:gid:...
        let ids = fields
            .as_ref()
            .and_then(|f| Some((number(f.get(2)?)?, number(f.get(3)?)?)));
        (owner.uid, owner.gid) = match (ids, number(user)) {
            (Some(ids), _) => ids,
            // A bare number need not have an entry; its group is then its own number.
            (None, Some(uid)) => (uid, uid),
            (None, None) => return Err(OwnerError::User(user.clone())),
        };
    }
    if let Some(group) = &names.group {
        let fields = lookup(&etc.join("group"), group)?;
        // name:password:gid:members
        let id = fields.as_ref().and_then(|f| number(f.get(2)?));
        owner.gid = id
            .or_else(|| number(group))
            .ok_or_else(|| OwnerError::Group(group.clone()))?;
    }
    Ok(owner)
}

/// Gives the directory at `path` to `owner` and sets its mode. A symbolic link is not followed.
pub fn apply(path: &Path, owner: Owner, mode: Option<Mode>) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let directory = open(path, flags, OpenMode::empty())?;
    fchown(
        directory.as_fd(),
        Some(Uid::from_raw(owner.uid)),
        Some(Gid::from_raw(owner.gid)),
    )?;
    if let Some(mode) = mode {
        // After the owner: changing that clears the special bits.
        let directory = fs::File::from(directory);
        directory.set_permissions(fs::Permissions::from_mode(mode.bits()))?;
    }
    Ok(())
}

fn number(text: &str) -> Option<u32> {
    // u32::MAX means "leave as it is" to chown(2).
    text.parse().ok().filter(|id| *id != u32::MAX)
}

fn lookup(file: &Path, name: &str) -> Result<Option<Vec<String>>, OwnerError> {
    let unreadable = |error| OwnerError::Read(file.display().to_string(), error);
    let reader = io::BufReader::new(fs::File::open(file).map_err(unreadable)?);
    for line in reader.lines() {
        let line = line.map_err(unreadable)?;
        let fields: Vec<String> = line.split(':').map(str::to_owned).collect();
        if fields.first().is_some_and(|first| first == name) {
            return Ok(Some(fields));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn etc() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let passwd = "root:x:0:0::/root:/bin/sh\napp:x:990:980::/:/bin/false\n";
        fs::write(directory.path().join("passwd"), passwd).unwrap();
        fs::write(directory.path().join("group"), "root:x:0:\nweb:x:970:app\n").unwrap();
        directory
    }

    fn names(user: Option<&str>, group: Option<&str>) -> OwnerNames {
        OwnerNames {
            user: user.map(str::to_owned),
            group: group.map(str::to_owned),
        }
    }

    #[test]
    fn names_and_numbers_are_found() {
        let etc = etc();
        let owner = |user, group| resolve(&names(user, group), etc.path()).unwrap();
        assert_eq!(owner(None, None), ROOT);
        assert_eq!(owner(Some("app"), None), Owner { uid: 990, gid: 980 });
        assert_eq!(
            owner(Some("app"), Some("web")),
            Owner { uid: 990, gid: 970 }
        );
        assert_eq!(
            owner(Some("1234"), Some("77")),
            Owner { uid: 1234, gid: 77 }
        );
    }

    #[test]
    fn who_does_not_exist_is_named() {
        let etc = etc();
        let error = |user, group| {
            resolve(&names(user, group), etc.path())
                .unwrap_err()
                .to_string()
        };
        assert!(error(Some("ap"), None).contains("user ap does not exist"));
        assert!(error(Some("app"), Some("nobody-here")).contains("group nobody-here"));
        assert!(error(Some("4294967295"), None).contains("4294967295"));
    }

    #[test]
    fn a_mode_is_octal_and_short() {
        assert_eq!(Mode::try_from("0750").unwrap().bits(), 0o750);
        assert_eq!(Mode::try_from("2770").unwrap().bits(), 0o2770);
        for text in ["", "75", "0790", "+750", "17777", "rwx"] {
            assert!(Mode::try_from(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_the_directory_itself_changes_and_links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (target, link) = (directory.path().join("t"), directory.path().join("l"));
        fs::create_dir(&target).unwrap();
        fs::write(target.join("file"), "x").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let me = fs::metadata(&target).unwrap();
        let owner = Owner {
            uid: me.uid(),
            gid: me.gid(),
        };
        let below = fs::metadata(target.join("file")).unwrap().mode();
        apply(&target, owner, Some(Mode::try_from("2750").unwrap())).unwrap();
        assert_eq!(fs::metadata(&target).unwrap().mode() & 0o7777, 0o2750);
        assert_eq!(fs::metadata(target.join("file")).unwrap().mode(), below);
        assert!(apply(&link, owner, None).is_err());
    }
}
