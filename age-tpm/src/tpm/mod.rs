//! A small TPM 2.0 command layer: exactly the commands that age identities need.
//!
//! Owns the connection, and the resending of commands that the TPM asks to see again. It never decides which key or index is meant; `parent`, `key`,
//! [`nv`] and [`lockout`] do.
//!
//! # Why not tss-esapi
//!
//! A plugin process lives for one file key, so its start-up is what people wait for. The ESYS
//! stack costs more CPU at start-up than a whole rival plugin; these commands over a plain file
//! or socket cost a third of it. And once a session with parameter encryption is there,
//! provisioning (Create, NV, lockout) is a few more lines on top, so a second stack would only
//! add `libtss2`, which it opens at run time, to every guest. tss-esapi is therefore used in
//! tests alone, as the independent opinion: what it makes we load, and the reverse.
//!
//! Follows TPM 2.0 Library Part 1 (sessions), Part 2 (structures) and Part 3 (commands).

mod command;
mod error;
mod key;
pub mod lockout;
pub mod nv;
mod oaep;
mod parent;
mod public;
mod rc;
mod session;
mod signing;
mod tcti;
pub mod wire;

use std::thread;
use std::time::Duration;

use zeroize::Zeroizing;

use self::command::{Auth, Command, Protect, Response, ST_SESSIONS};
use self::tcti::HEADER_BYTES;
use self::wire::{Reader, WireError, Writer};

pub use self::error::TpmError;
pub(crate) use self::key::MAX_PRIVATE_BYTES;
pub use self::key::{KeyOptions, LoadedKey, MAX_PIN_BYTES, NewKey, create_key};
pub use self::parent::PERSISTENT_SRK;
pub(crate) use self::public::MAX_PUBLIC_BYTES;
pub use self::public::{EccPublic, Name, Public, PublicError};
pub use self::rc::{Rc, Subject};
pub use self::signing::create_signing_key;
pub use self::tcti::{
    DEFAULT_DEVICE, MAX_RESPONSE_BYTES, SOCKET_TIMEOUT, TCTI_ENV, Tcti, TctiError, Transport,
};

/// TPM_RH_OWNER: the storage hierarchy.
pub(crate) const RH_OWNER: u32 = 0x4000_0001;
/// TPM_RH_NULL: no hierarchy, no key, no binding.
pub(crate) const RH_NULL: u32 = 0x4000_0007;
/// TPM_RH_LOCKOUT: the dictionary-attack authority.
pub(crate) const RH_LOCKOUT: u32 = 0x4000_000a;

/// How often a command is sent again on `TPM_RC_RETRY` and its kind before giving up.
const RETRY_LIMIT: u32 = 60;
/// Pause before the second resend; the first one is immediate, for it nearly always suffices.
const RETRY_PAUSE: Duration = Duration::from_millis(10);
/// Ceiling of the doubling pause between resends.
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(320);

/// An open TPM. All methods block.
pub struct Tpm {
    transport: Box<dyn Transport>,
    address: String,
    commands: u64,
}

impl std::fmt::Debug for Tpm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tpm")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Tpm {
    /// Opens the TPM at `tcti`. Sends nothing.
    ///
    /// # Errors
    ///
    /// [`TpmError::Open`], whose [`remedy`](TpmError::remedy) says what usually helps.
    pub fn open(tcti: &Tcti) -> Result<Self, TpmError> {
        let transport = tcti.connect().map_err(|source| TpmError::Open {
            tcti: tcti.clone(),
            source,
        })?;
        Ok(Self::with_transport(transport, tcti.to_string()))
    }

    /// Uses a transport of the caller's; `address` appears in errors.
    pub fn with_transport(transport: Box<dyn Transport>, address: String) -> Self {
        Self {
            transport,
            address,
            commands: 0,
        }
    }

    /// How many commands were sent so far, resent ones included.
    pub fn commands_sent(&self) -> u64 {
        self.commands
    }

    /// Runs one command and returns its handle (if it yields one) and its parameters.
    fn execute(&mut self, command: Command<'_>) -> Result<Response, TpmError> {
        let name = command.name;
        let (request, session) = command.encode()?;
        let raw = self.transact(name, &request)?;
        let wire = |source| TpmError::Wire {
            command: name,
            source,
        };
        let mut r = Reader::new(&raw);
        let tag = r.u16("response tag").map_err(wire)?;
        r.u32("response size").map_err(wire)?;
        r.u32("response code").map_err(wire)?;
        let handle = match command.yields_handle {
            true => r.u32("response handle").map_err(wire)?,
            false => 0,
        };
        if tag != ST_SESSIONS {
            // A session that was to be verified must not vanish from the answer.
            if session.is_some() {
                return Err(TpmError::Forged { command: name });
            }
            return Ok(Response {
                name,
                handle,
                params: Zeroizing::new(r.rest().to_vec()),
            });
        }
        let size = r.u32("parameter size").map_err(wire)?;
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let mut params = Zeroizing::new(r.bytes(size, "parameters").map_err(wire)?.to_vec());
        if let Some(pending) = session {
            pending
                .accept(command.code, &mut params, &mut r)
                .map_err(|e| e.at(name))?;
        }
        Ok(Response {
            name,
            handle,
            params,
        })
    }

    /// Sends bytes until the TPM answers with something other than "again".
    fn transact(&mut self, name: &'static str, request: &[u8]) -> Result<Vec<u8>, TpmError> {
        let mut pause = Duration::ZERO;
        for attempt in 0.. {
            self.commands += 1;
            let raw = self
                .transport
                .transact(request)
                .map_err(|source| TpmError::Transport {
                    tcti: self.address.clone(),
                    command: name,
                    source,
                })?;
            let code = raw
                .get(6..HEADER_BYTES)
                .and_then(|b| b.try_into().ok())
                .map(u32::from_be_bytes)
                .ok_or(TpmError::Wire {
                    command: name,
                    source: WireError::Truncated {
                        field: "response header",
                    },
                })?;
            let rc = match code {
                0 => return Ok(raw),
                code => Rc(code),
            };
            if !rc.is_retry() || attempt >= RETRY_LIMIT {
                return Err(TpmError::Rc { command: name, rc });
            }
            // The TPM did nothing, so sessions did not advance: the very same bytes go again.
            thread::sleep(pause);
            pause = (pause * 2).clamp(RETRY_PAUSE, RETRY_PAUSE_MAX);
        }
        unreachable!("the loop returns by itself")
    }

    /// TPM2_FlushContext.
    fn flush(&mut self, handle: u32) -> Result<(), TpmError> {
        let command = Command::new("TPM2_FlushContext", 0x165).params(Writer::new().u32(handle));
        self.execute(command).map(drop)
    }

    /// TPM2_GetCapability for one TPM property.
    ///
    /// # Errors
    ///
    /// The TPM refused, or does not know the property.
    pub fn property(&mut self, property: u32) -> Result<u32, TpmError> {
        const CAP_TPM_PROPERTIES: u32 = 6;
        let command = Command::new("TPM2_GetCapability", 0x17a)
            .params(Writer::new().u32(CAP_TPM_PROPERTIES).u32(property).u32(1));
        let response = self.execute(command)?;
        response.read(|r| {
            r.u8("more data")?;
            r.u32("capability")?;
            let count = r.u32("property count")?;
            let found = r.u32("property")?;
            if count == 0 || found != property {
                return Err(WireError::Truncated {
                    field: "the property",
                });
            }
            r.u32("property value")
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::command::ST_NO_SESSIONS;
    use super::*;

    /// Answers with the codes given, and remembers what it was sent.
    struct Scripted {
        codes: Vec<u32>,
        sent: Arc<Mutex<Vec<Vec<u8>>>>,
    }

    impl Transport for Scripted {
        fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
            self.sent.lock().unwrap().push(command.to_vec());
            let code = if self.codes.is_empty() {
                0x922
            } else {
                self.codes.remove(0)
            };
            Ok(Writer::new()
                .u16(ST_NO_SESSIONS)
                .u32(10)
                .u32(code)
                .finish()
                .to_vec())
        }
    }

    fn scripted(codes: &[u32]) -> (Tpm, Arc<Mutex<Vec<Vec<u8>>>>) {
        let sent = Arc::default();
        let script = Scripted {
            codes: codes.to_vec(),
            sent: Arc::clone(&sent),
        };
        (
            Tpm::with_transport(Box::new(script), "script".to_owned()),
            sent,
        )
    }

    #[test]
    fn a_tpm_that_says_again_gets_the_very_same_command_again() {
        let (mut tpm, sent) = scripted(&[0x922, 0x908, 0x90a, 0]);
        tpm.flush(0x8000_0001).unwrap();
        let sent = sent.lock().unwrap();
        assert_eq!((sent.len(), tpm.commands_sent()), (4, 4));
        assert!(sent.iter().all(|command| command == &sent[0]));
        assert_eq!(
            sent[0],
            [0x80, 1, 0, 0, 0, 14, 0, 0, 1, 0x65, 0x80, 0, 0, 1]
        );
    }

    #[test]
    fn another_refusal_is_final_and_says_what_was_refused() {
        let (mut tpm, sent) = scripted(&[0x921]);
        let error = tpm.flush(1).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the TPM refused TPM2_FlushContext: TPM_RC_LOCKOUT (0x921)"
        );
        assert_eq!(sent.lock().unwrap().len(), 1);
    }

    #[test]
    fn an_answer_that_is_too_short_for_the_command_is_an_error() {
        let (mut tpm, _) = scripted(&[0]);
        let error = tpm.property(0x200).unwrap_err();
        assert!(matches!(error, TpmError::Wire { .. }), "{error:?}");
    }
}
