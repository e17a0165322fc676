//! The two state machines of an age plugin, `recipient-v1` and `identity-v1`.
//!
//! Owns the translation between age's plugin protocol and this library; the protocol's framing is
//! the `age-plugin` crate's. Encrypting never opens a TPM, but for `-j tpm`. Decrypting opens it only when a stanza
//! is for one of the identities, and a TPM that cannot be opened becomes an error within the
//! protocol, so that the age client can show it. Follows c2sp.org/age-plugin.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;

use age_core::format::{FileKey, Stanza as AgeStanza};
use age_core::secrecy::SecretString;
use age_plugin::identity::{self, IdentityPluginV1};
use age_plugin::recipient::{self, RecipientPluginV1};
use age_plugin::{Callbacks, PluginHandler};

use crate::held::Held;
use crate::identity::{Identity, IdentityError, PLUGIN_NAME, Pin};
use crate::key::TpmKey;
use crate::provision::{NV_INDEX, stored};
use crate::recipient::Recipient;
use crate::stanza::{Kind, Stanza};
use crate::tpm::{Tcti, TctiError, Tpm, TpmError};
use crate::unwrap::{UnwrapError, unwrap_file_key};
use crate::wrap::wrap_file_key;

/// Environment variable that holds the PIN.
pub const PIN_ENV: &str = "AGE_TPM_PIN";
/// The plugin name in `age1tag1..`, should this program be installed as `age-plugin-tag` too.
const TAG_NAME: &str = "tag";

/// Makes the state machines; opens nothing.
#[derive(Debug)]
pub struct Handler {
    tcti: Result<Tcti, TctiError>,
    socket: Option<PathBuf>,
}

impl Handler {
    /// `tcti` is looked at only when a TPM is needed; a bad one is then told to the client.
    /// `socket` is where a service may hold the key.
    pub fn new(tcti: Result<Tcti, TctiError>, socket: Option<PathBuf>) -> Self {
        Self { tcti, socket }
    }
}

impl PluginHandler for Handler {
    type RecipientV1 = RecipientPlugin;
    type IdentityV1 = IdentityPlugin;

    fn recipient_v1(self) -> io::Result<RecipientPlugin> {
        Ok(RecipientPlugin {
            tcti: self.tcti,
            recipients: Vec::new(),
        })
    }

    fn identity_v1(self) -> io::Result<IdentityPlugin> {
        let Self { tcti, socket } = self;
        Ok(IdentityPlugin {
            tcti,
            socket,
            identities: Vec::new(),
            loaded: None,
        })
    }
}

/// `recipient-v1`: wraps file keys.
#[derive(Debug)]
pub struct RecipientPlugin {
    /// Needed only for an identity that is not given but kept by the TPM.
    tcti: Result<Tcti, TctiError>,
    recipients: Vec<Recipient>,
}

impl RecipientPluginV1 for RecipientPlugin {
    fn add_recipient(
        &mut self,
        index: usize,
        plugin_name: &str,
        bytes: &[u8],
    ) -> Result<(), recipient::Error> {
        let fail = |message: String| recipient::Error::Recipient { index, message };
        if ![PLUGIN_NAME, TAG_NAME].contains(&plugin_name) {
            return Err(fail(format!(
                "age-plugin-tpm cannot encrypt to age1{plugin_name}1"
            )));
        }
        self.recipients
            .push(Recipient::from_bytes(bytes).map_err(|e| fail(e.to_string()))?);
        Ok(())
    }

    fn add_identity(
        &mut self,
        index: usize,
        plugin_name: &str,
        bytes: &[u8],
    ) -> Result<(), recipient::Error> {
        let fail = |message: String| recipient::Error::Identity { index, message };
        if plugin_name != PLUGIN_NAME {
            return Err(fail(format!(
                "age-plugin-tpm knows no {plugin_name} identities"
            )));
        }
        let identity = read_identity(bytes, &self.tcti).map_err(|e| fail(e.to_string()))?;
        self.recipients.push(identity.recipient());
        Ok(())
    }

    fn labels(&mut self) -> HashSet<String> {
        HashSet::new()
    }

    fn wrap_file_keys(
        &mut self,
        file_keys: Vec<FileKey>,
        _callbacks: impl Callbacks<recipient::Error>,
    ) -> io::Result<Result<Vec<Vec<AgeStanza>>, Vec<recipient::Error>>> {
        let wrap_all = |key| {
            self.recipients
                .iter()
                .map(|r| wrap_file_key(r, key))
                .collect::<Result<_, _>>()
        };
        Ok(file_keys
            .iter()
            .map(wrap_all)
            .collect::<io::Result<_>>()
            .map_err(|e| {
                vec![recipient::Error::Internal {
                    message: e.to_string(),
                }]
            }))
    }
}

/// `identity-v1`: unwraps file keys.
#[derive(Debug)]
pub struct IdentityPlugin {
    tcti: Result<Tcti, TctiError>,
    /// A service that may hold the key; forgotten once it was of no help.
    socket: Option<PathBuf>,
    identities: Vec<Identity>,
    /// The identity used last, by its index: a TPM has room for few keys at a time.
    loaded: Option<(usize, TpmKey<Tpm>)>,
}

/// Why an identity could not be used; ends the whole run, for the next file would meet it too.
#[derive(Debug, thiserror::Error)]
enum UseError {
    #[error("{0}")]
    Tcti(#[from] TctiError),
    #[error("{}", .0.explain())]
    Tpm(#[from] TpmError),
    #[error("{0}")]
    Identity(#[from] IdentityError),
    #[error("this TPM keeps no identity in NV index 0x{NV_INDEX:08x}; name a file with -i")]
    NothingKept,
    #[error("the key needs a PIN; set {PIN_ENV} or run the client on a terminal")]
    NoPin,
    #[error("{PIN_ENV} is not UTF-8")]
    PinNotText,
    #[error("the age client broke the connection: {0}")]
    Client(io::Error),
}

impl IdentityPluginV1 for IdentityPlugin {
    fn add_identity(
        &mut self,
        index: usize,
        plugin_name: &str,
        bytes: &[u8],
    ) -> Result<(), identity::Error> {
        let fail = |message: String| identity::Error::Identity { index, message };
        if plugin_name != PLUGIN_NAME {
            return Err(fail(format!(
                "age-plugin-tpm knows no {plugin_name} identities"
            )));
        }
        let identity = read_identity(bytes, &self.tcti).map_err(|e| fail(e.to_string()))?;
        self.identities.push(identity);
        Ok(())
    }

    fn unwrap_file_keys(
        &mut self,
        files: Vec<Vec<AgeStanza>>,
        mut callbacks: impl Callbacks<identity::Error>,
    ) -> io::Result<HashMap<usize, Result<FileKey, Vec<identity::Error>>>> {
        let mut results = HashMap::new();
        for (file_index, stanzas) in files.iter().enumerate() {
            match self.unwrap_file(file_index, stanzas, &mut callbacks) {
                Ok(Some(file_key)) => {
                    results.insert(file_index, Ok(file_key));
                }
                Ok(None) => {}
                Err(Failed::Stanzas(errors)) => {
                    results.insert(file_index, Err(errors));
                }
                Err(Failed::Identity(index, e)) => {
                    let message = e.to_string();
                    let error = identity::Error::Identity { index, message };
                    results.insert(file_index, Err(vec![error]));
                    break;
                }
            }
        }
        self.loaded = None;
        Ok(results)
    }
}

/// Reads an identity's payload. An empty one, which is what `-j tpm` makes a client send, stands for
/// the identity that the TPM itself keeps.
fn read_identity(bytes: &[u8], tcti: &Result<Tcti, TctiError>) -> Result<Identity, UseError> {
    if !bytes.is_empty() {
        return Ok(Identity::from_bytes(bytes)?);
    }
    let mut tpm = Tpm::open(tcti.as_ref().map_err(Clone::clone)?)?;
    stored(&mut tpm)?.ok_or(UseError::NothingKept)
}

/// Why one file gave no file key.
enum Failed {
    Stanzas(Vec<identity::Error>),
    Identity(usize, UseError),
}

impl IdentityPlugin {
    /// `None` if no stanza is for any identity.
    fn unwrap_file(
        &mut self,
        file_index: usize,
        stanzas: &[AgeStanza],
        callbacks: &mut impl Callbacks<identity::Error>,
    ) -> Result<Option<FileKey>, Failed> {
        let mut ours = Vec::new();
        let mut errors = Vec::new();
        let error = |stanza_index, message: String| identity::Error::Stanza {
            file_index,
            stanza_index,
            message,
        };
        for (index, stanza) in stanzas.iter().enumerate() {
            match Stanza::parse(stanza) {
                Some(Ok(stanza)) => ours.push((index, stanza)),
                Some(Err(e)) => errors.push(error(index, e.to_string())),
                None => {}
            }
        }
        // A header with a malformed stanza is not to be trusted at all, says the specification.
        if !errors.is_empty() {
            return Err(Failed::Stanzas(errors));
        }
        for identity_index in 0..self.identities.len() {
            let own = self.identities[identity_index].recipient();
            for (index, stanza) in ours.iter().filter(|(_, stanza)| stanza.is_for(&own)) {
                match self.unwrap_stanza(identity_index, &own, stanza, callbacks) {
                    Ok(file_key) => {
                        if stanza.kind() == Kind::TpmEcc {
                            // A courtesy: whether the client can show it does not matter.
                            let _ = callbacks.message(
                                "this file uses the old tpm-ecc stanza; encrypt it again to have the standard one",
                            );
                        }
                        return Ok(Some(file_key));
                    }
                    Err(UnwrapError::Body) => {
                        errors.push(error(*index, UnwrapError::<UseError>::Body.to_string()));
                    }
                    Err(UnwrapError::Key(e)) => {
                        return Err(Failed::Identity(identity_index, e));
                    }
                }
            }
        }
        if errors.is_empty() {
            Ok(None)
        } else {
            Err(Failed::Stanzas(errors))
        }
    }

    /// With the help of a service that holds the key, or else with the TPM.
    fn unwrap_stanza(
        &mut self,
        index: usize,
        own: &Recipient,
        stanza: &Stanza,
        callbacks: &mut impl Callbacks<identity::Error>,
    ) -> Result<FileKey, UnwrapError<UseError>> {
        if self.identities[index].pin() == Pin::None
            && let Some(socket) = &self.socket
        {
            match unwrap_file_key(stanza, own, &mut Held { socket, key: own }) {
                Ok(file_key) => return Ok(file_key),
                // The TPM has the last word, so a service can slow us down but not mislead us.
                Err(UnwrapError::Body) => {}
                Err(UnwrapError::Key(e)) if e.kind() == io::ErrorKind::PermissionDenied => {}
                Err(UnwrapError::Key(_)) => self.socket = None,
            }
        }
        let key = self.key(index, callbacks).map_err(UnwrapError::Key)?;
        unwrap_file_key(stanza, own, key).map_err(|e| match e {
            UnwrapError::Key(e) => UnwrapError::Key(e.into()),
            UnwrapError::Body => UnwrapError::Body,
        })
    }

    /// The identity's key, loaded; asks for the PIN before it touches the TPM.
    fn key(
        &mut self,
        index: usize,
        callbacks: &mut impl Callbacks<identity::Error>,
    ) -> Result<&mut TpmKey<Tpm>, UseError> {
        // Make room first: an emulator serves one connection at a time.
        let loaded = match self.loaded.take() {
            Some((loaded_index, key)) if loaded_index == index => key,
            _ => {
                let identity = &self.identities[index];
                let pin = match identity.pin() {
                    Pin::None => None,
                    Pin::Required => Some(ask_pin(identity, callbacks)?),
                };
                let tpm = Tpm::open(self.tcti.as_ref().map_err(Clone::clone)?)?;
                TpmKey::load(tpm, identity, pin)?
            }
        };
        Ok(&mut self.loaded.insert((index, loaded)).1)
    }
}

fn ask_pin(
    identity: &Identity,
    callbacks: &mut impl Callbacks<identity::Error>,
) -> Result<SecretString, UseError> {
    match std::env::var(PIN_ENV) {
        // An empty variable is a slip, and not worth one of the few tries.
        Ok(pin) if pin.is_empty() => {}
        Ok(pin) => return Ok(SecretString::from(pin)),
        Err(std::env::VarError::NotUnicode(_)) => return Err(UseError::PinNotText),
        Err(std::env::VarError::NotPresent) => {}
    }
    let question = format!("PIN of the TPM key {}", identity.recipient());
    match callbacks.request_secret(&question) {
        Ok(Ok(pin)) => Ok(pin),
        Ok(Err(_)) => Err(UseError::NoPin),
        Err(e) => Err(UseError::Client(e)),
    }
}
