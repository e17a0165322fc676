//! Age keys inside the TPM: create, load, and the one ECDH that decryption needs.
//!
//! Owns the wrapped key's way in and out of the TPM and clears up behind itself. It knows nothing
//! of identities' text form or of stanzas. Follows TPM 2.0 Library Part 3: TPM2_Create, TPM2_Load,
//! TPM2_ECDH_ZGen.

use std::borrow::BorrowMut;

use p256::PublicKey;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use zeroize::Zeroizing;

use super::lockout::Lockout;
use super::parent::Parent;
use super::public::{MAX_PUBLIC_BYTES, age_key_template};
use super::session::Session;
use super::{Auth, Command, EccPublic, Name, Protect, Rc, Tpm, TpmError, Writer};
use crate::unwrap::SharedX;

/// Largest wrapped key that is accepted, in bytes; P-256 under SHA-256 needs 126.
pub(crate) const MAX_PRIVATE_BYTES: usize = 1024;

/// Longest PIN, in bytes: an authorisation value is no longer than the name's digest.
pub const MAX_PIN_BYTES: usize = 32;

/// How a new key is to be made.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeyOptions<'a> {
    /// PIN that each use must present; its bytes go to the TPM as they are.
    pub pin: Option<&'a [u8]>,
}

/// A key that was just made; nothing of it stays in the TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// The public half.
    pub public: EccPublic,
    /// The private half, wrapped by the storage root key.
    pub private: Vec<u8>,
    /// Name of that storage root key.
    pub parent: Name,
}

/// Makes a key under this TPM's storage root key.
///
/// A key without a PIN is made with `noDA`: there is nothing to guess, and so power cuts and other
/// people's wrong PINs cannot lock it out. A key with a PIN is under dictionary-attack protection.
///
/// # Errors
///
/// The TPM refused; see [`TpmError::remedy`].
pub fn create_key(tpm: &mut Tpm, options: KeyOptions<'_>) -> Result<NewKey, TpmError> {
    let mut parent = Parent::for_new_key(tpm)?;
    let template = age_key_template(options.pin.is_none());
    let made = create_under(tpm, &parent, options, template);
    parent.release(&mut *tpm);
    made
}

/// Makes a key of that template under a parent that is there.
pub(super) fn create_under(
    tpm: &mut Tpm,
    parent: &Parent,
    options: KeyOptions<'_>,
    template: Writer,
) -> Result<NewKey, TpmError> {
    let session = Session::start(tpm, parent.handle, &parent.public)?;
    let sensitive = Writer::new()
        .sized(options.pin.unwrap_or_default())
        .sized(&[])
        .finish();
    let template = template.finish();
    let protect = Protect {
        auth_value: &[],
        command: true,
        response: false,
    };
    let command = Command::new("TPM2_Create", 0x153)
        .object(parent.handle, &parent.public.name())
        .auth(Auth::Session(&session, protect))
        .params(
            Writer::new()
                .sized(&sensitive)
                .sized(&template)
                .sized(&[])
                .u32(0),
        );
    let response = tpm.execute(command).inspect_err(|_| {
        // A refused command leaves its session behind.
        let _ = tpm.flush(session.handle);
    })?;
    let (private, public) = response.read(|r| {
        let private = r.sized(MAX_PRIVATE_BYTES, "wrapped key")?.to_vec();
        Ok((private, r.sized(MAX_PUBLIC_BYTES, "public area")?))
    })?;
    let public = EccPublic::parse(public).map_err(|source| TpmError::Public {
        what: "new key",
        source,
    })?;
    Ok(NewKey {
        public,
        private,
        parent: parent.public.name(),
    })
}

/// A key that is loaded and ready; dropping it gives the TPM its memory back.
///
/// `T` is either a borrowed or an owned [`Tpm`], so that a service can keep one for its whole life.
#[derive(Debug)]
pub struct LoadedKey<T: BorrowMut<Tpm>> {
    tpm: T,
    handle: u32,
    public: EccPublic,
}

impl<T: BorrowMut<Tpm>> LoadedKey<T> {
    /// Loads a wrapped key under the storage root key named `parent` (old identities name none).
    ///
    /// # Errors
    ///
    /// [`TpmError::ForeignParent`] or [`TpmError::ForeignKey`] if another TPM made it; otherwise
    /// what the TPM says.
    pub fn load(
        mut tpm: T,
        public: &EccPublic,
        private: &[u8],
        parent: Option<&Name>,
    ) -> Result<Self, TpmError> {
        let mut parent = Parent::named(tpm.borrow_mut(), parent)?;
        let command = Command::new("TPM2_Load", 0x157)
            .object(parent.handle, &parent.public.name())
            .auth(Auth::Empty)
            .params(
                Writer::new()
                    .sized(private)
                    .sized(public.public().as_bytes()),
            )
            .yields_handle();
        let loaded = tpm.borrow_mut().execute(command);
        // The key stands by itself from here on; a TPM has room for few objects.
        parent.release(&mut tpm);
        match loaded {
            Ok(response) => Ok(Self {
                handle: response.handle,
                public: public.clone(),
                tpm,
            }),
            Err(TpmError::Rc { rc, .. }) if rc.is_foreign_key() => Err(TpmError::ForeignKey),
            Err(e) => Err(e),
        }
    }

    /// The public half.
    pub fn public(&self) -> &EccPublic {
        &self.public
    }

    /// TPM2_ECDH_ZGen: the X coordinate of the private key times `peer`.
    ///
    /// The session is salted to this very key, whose public half the identity has, so nobody on the
    /// bus can take the TPM's place. It is itself the authorisation, so a PIN takes part only in a
    /// keyed hash, and the result comes back encrypted: neither crosses the bus in clear.
    ///
    /// # Errors
    ///
    /// [`TpmError::WrongPin`], [`TpmError::Lockout`], or what the TPM says.
    pub fn ecdh(&mut self, peer: &PublicKey, pin: Option<&[u8]>) -> Result<SharedX, TpmError> {
        let tpm = self.tpm.borrow_mut();
        let session = Session::start(tpm, self.handle, self.public.public())?;
        let point = peer.to_encoded_point(false);
        let (x, y) = match (point.x(), point.y()) {
            (Some(x), Some(y)) => (x.as_slice(), y.as_slice()),
            _ => (&[][..], &[][..]), // a PublicKey is never the point at infinity
        };
        let point = Writer::new().sized(x).sized(y).finish();
        let auth_value = pin.unwrap_or_default();
        let command = Command::new("TPM2_ECDH_ZGen", 0x154)
            .object(self.handle, &self.public.public().name())
            .auth(Auth::Session(
                &session,
                Protect {
                    auth_value,
                    command: false,
                    response: true,
                },
            ))
            .params(Writer::new().sized(&point));
        let response = match tpm.execute(command) {
            Ok(response) => response,
            Err(e) => {
                let _ = tpm.flush(session.handle);
                return Err(match e {
                    TpmError::Rc {
                        rc: Rc::LOCKOUT, ..
                    } => TpmError::Lockout,
                    TpmError::Rc { rc, .. } if rc.is_auth_failure() => TpmError::WrongPin {
                        tries_left: Lockout::read(tpm).ok().map(|l| l.tries_left()),
                    },
                    other => other,
                });
            }
        };
        response.read(|r| {
            r.u16("point size")?;
            let x = r.sized(SharedX::BYTES, "shared x coordinate")?;
            let mut shared = Zeroizing::new([0; SharedX::BYTES]);
            shared[SharedX::BYTES - x.len()..].copy_from_slice(x);
            Ok(SharedX::new(shared))
        })
    }
}

impl<T: BorrowMut<Tpm>> Drop for LoadedKey<T> {
    fn drop(&mut self) {
        // Best effort: /dev/tpmrm0 clears up by itself, an emulator's socket does not.
        let _ = self.tpm.borrow_mut().flush(self.handle);
    }
}
