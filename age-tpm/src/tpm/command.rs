//! Commands under construction, and answers under inspection.
//!
//! Owns the framing: tag, size, code, handles, authorisation area, parameters. It sends nothing;
//! `Tpm` does. Follows TPM 2.0 Library Part 1, section 18 (command and response structure).

use zeroize::Zeroizing;

use super::session::{Pending, Session};
use super::wire::{Reader, WireError, Writer};
use super::{Name, TpmError};

/// TPM_RS_PW: a password in place of a session.
const RS_PW: u32 = 0x4000_0009;
pub(super) const ST_NO_SESSIONS: u16 = 0x8001;
pub(super) const ST_SESSIONS: u16 = 0x8002;
/// Session attribute: the session outlives the command.
const CONTINUE_SESSION: u8 = 0x01;

/// Who authorises a command.
pub(super) enum Auth<'s> {
    /// An empty password.
    Empty,
    /// A salted session, which also hides parameters; used for one command.
    Session(&'s Session, Protect<'s>),
}

/// What a session does beyond authorising.
#[derive(Clone, Copy)]
pub(super) struct Protect<'s> {
    /// Authorisation value of the object that the first handle names.
    pub(super) auth_value: &'s [u8],
    /// Encrypt the command's first parameter.
    pub(super) command: bool,
    /// Have the response's first parameter encrypted.
    pub(super) response: bool,
}

/// A command under construction.
pub(super) struct Command<'s> {
    pub(super) name: &'static str,
    pub(super) code: u32,
    /// Handles with the names that go into the authorisation hash.
    pub(super) handles: Vec<(u32, Vec<u8>)>,
    pub(super) auths: Vec<Auth<'s>>,
    pub(super) params: Writer,
    pub(super) yields_handle: bool,
}

impl<'s> Command<'s> {
    pub(super) fn new(name: &'static str, code: u32) -> Self {
        Self {
            name,
            code,
            handles: Vec::new(),
            auths: Vec::new(),
            params: Writer::new(),
            yields_handle: false,
        }
    }

    /// Adds a handle whose name is the handle itself (hierarchies, sessions), or one that needs
    /// no name because only passwords authorise the command.
    pub(super) fn handle(mut self, handle: u32) -> Self {
        self.handles.push((handle, handle.to_be_bytes().to_vec()));
        self
    }

    /// Adds an object's handle with its name.
    pub(super) fn object(mut self, handle: u32, name: &Name) -> Self {
        self.handles.push((handle, name.as_bytes().to_vec()));
        self
    }

    pub(super) fn auth(mut self, auth: Auth<'s>) -> Self {
        self.auths.push(auth);
        self
    }

    pub(super) fn params(mut self, params: Writer) -> Self {
        self.params = params;
        self
    }

    pub(super) fn yields_handle(mut self) -> Self {
        self.yields_handle = true;
        self
    }

    /// The bytes to send, and what is needed to check the answer of a salted session.
    pub(super) fn encode(&self) -> Result<(Zeroizing<Vec<u8>>, Option<Pending>), TpmError> {
        let mut params = Zeroizing::new(self.params.as_slice().to_vec());
        let mut area = Writer::new();
        let mut pending = None;
        for auth in &self.auths {
            match auth {
                Auth::Empty => {
                    area = area.u32(RS_PW).sized(&[]).u8(CONTINUE_SESSION).sized(&[]);
                }
                Auth::Session(session, protect) => {
                    let (bytes, wait) = session
                        .authorize(self.code, &self.handles, &mut params, *protect)
                        .map_err(TpmError::Random)?;
                    area = area.bytes(&bytes);
                    pending = Some(wait);
                }
            }
        }
        let mut body = Writer::new().u32(self.code);
        for (handle, _) in &self.handles {
            body = body.u32(*handle);
        }
        let tag = if self.auths.is_empty() {
            ST_NO_SESSIONS
        } else {
            let area = area.finish();
            body = body.u32(len_u32(area.len())).bytes(&area);
            ST_SESSIONS
        };
        let body = body.bytes(&params).finish();
        // Tag and size come before the body that starts with the command code.
        let request = Writer::new()
            .u16(tag)
            .u32(len_u32(body.len() + 6))
            .bytes(&body)
            .finish();
        Ok((request, pending))
    }
}

fn len_u32(len: usize) -> u32 {
    u32::try_from(len).expect("commands are built here and stay below 4 KiB")
}

/// An answer whose authentication was checked.
pub(super) struct Response {
    pub(super) name: &'static str,
    pub(super) handle: u32,
    pub(super) params: Zeroizing<Vec<u8>>,
}

impl Response {
    /// Parses the parameters; bytes after what `parse` takes are allowed (tickets nobody needs).
    pub(super) fn read<'a, T>(
        &'a self,
        parse: impl FnOnce(&mut Reader<'a>) -> Result<T, WireError>,
    ) -> Result<T, TpmError> {
        parse(&mut Reader::new(&self.params)).map_err(|source| TpmError::Wire {
            command: self.name,
            source,
        })
    }
}
