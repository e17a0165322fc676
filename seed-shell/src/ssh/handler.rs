//! One connection: authentication by key, and session channels. Everything else that SSH knows is refused.
//!
//! Any key may connect: what it sees is a matter of [`crate::access`]. A certificate is refused. Its owner reads
//! why through keyboard-interactive (RFC 4256), which asks nothing and never succeeds; a client that also has the
//! plain key goes on with that one.

use std::{
    borrow::Cow,
    collections::HashSet,
    net::IpAddr,
    sync::{
        Arc, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use russh::{
    Channel, ChannelId, ChannelOpenFailure, MethodKind, MethodSet, Pty,
    keys::{Certificate, PublicKey},
    server::{
        Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Response, Session, VerifiedPublicKey,
    },
};

use tokio::sync::watch;

use super::{Shared, channel, limits::Place};
use crate::{
    access::{Access, Who},
    authorized_keys,
};

/// What somebody with a certificate reads.
const CERTIFICATE: &str = "Certificates are not accepted here: authenticate with the plain key, as listed in .authorized_keys.";

/// How many channels are open on a connection, and when that was last none.
#[derive(Debug, Clone)]
pub struct Open(Arc<AtomicUsize>, watch::Sender<()>);

impl Default for Open {
    fn default() -> Self {
        Self(Arc::default(), watch::Sender::new(()))
    }
}

impl Open {
    /// How many now.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Told whenever one is opened or closed. To be taken before [`Open::count`] is asked, so that nothing is missed
    /// in between.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.1.subscribe()
    }

    fn enter(&self) -> OneOpen {
        self.0.fetch_add(1, Ordering::Relaxed);
        self.1.send_replace(());
        OneOpen(self.clone())
    }
}

/// One open channel; counted until it is dropped.
#[derive(Debug)]
pub struct OneOpen(Open);

impl Drop for OneOpen {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
        self.0.1.send_replace(());
    }
}

/// One connection's state.
#[derive(Debug)]
pub struct Connection {
    shared: Shared,
    address: IpAddr,
    place: Place,
    /// Told when it has authenticated.
    authenticated: watch::Sender<bool>,
    open: Open,
    key: Option<PublicKey>,
    /// Somebody tried a certificate.
    certificate: bool,
    /// Channels with a terminal, and channels that run something: neither is had twice.
    terminals: channel::Terminals,
    running: HashSet<ChannelId>,
}

impl Connection {
    /// From this address.
    pub fn new(
        shared: Shared,
        address: IpAddr,
        place: Place,
        authenticated: watch::Sender<bool>,
        open: Open,
    ) -> Self {
        Self {
            shared,
            address,
            place,
            authenticated,
            open,
            key: None,
            certificate: false,
            terminals: channel::Terminals::default(),
            running: HashSet::new(),
        }
    }

    fn who(&self) -> Option<Who> {
        Some(Who {
            key: self.key.clone()?,
            address: self.address,
        })
    }

    fn terminals(&self) -> MutexGuard<'_, HashSet<ChannelId>> {
        self.terminals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), russh::Error> {
        if self.running.insert(channel) {
            session.channel_success(channel)
        } else {
            session.channel_failure(channel)
        }
    }
}

impl Handler for Connection {
    type Error = russh::Error;

    async fn auth_publickey_offered(
        &mut self,
        _: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        // SHA-1 signatures are refused (RFC 8332): clients offer rsa-sha2 for the same key.
        let sha1 = *offer.algorithm == russh::keys::Algorithm::Rsa { hash: None };
        if sha1 || authorized_keys::admitted(offer.public_key).is_err() {
            return Ok(Auth::reject());
        }
        Ok(Auth::Accept)
    }

    async fn auth_publickey(
        &mut self,
        _: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        let fingerprint = key.public_key.fingerprint(Default::default());
        tracing::info!(address = %self.address, key = %fingerprint, "connected");
        self.key = Some(key.public_key.clone());
        self.place.authenticated();
        self.authenticated.send_replace(true);
        Ok(Auth::Accept)
    }

    async fn auth_openssh_certificate(
        &mut self,
        _: &str,
        _: &Certificate,
    ) -> Result<Auth, Self::Error> {
        tracing::info!(address = %self.address, "certificate refused");
        self.certificate = true;
        let methods = [MethodKind::PublicKey, MethodKind::KeyboardInteractive];
        Ok(Auth::Reject {
            proceed_with_methods: Some(MethodSet::from(&methods[..])),
            partial_success: false,
        })
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _: &str,
        _: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        if response.is_some() || !std::mem::take(&mut self.certificate) {
            return Ok(Auth::Reject {
                proceed_with_methods: Some(MethodSet::from(&[MethodKind::PublicKey][..])),
                partial_success: false,
            });
        }
        Ok(Auth::Partial {
            name: Cow::Borrowed(""),
            instructions: Cow::Borrowed(CERTIFICATE),
            prompts: Cow::Borrowed(&[]),
        })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        let Some(who) = self.who() else {
            reply
                .reject(ChannelOpenFailure::AdministrativelyProhibited)
                .await;
            return Ok(());
        };
        if self.open.count() >= self.shared.config.limits.channels {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        let one = self.open.enter();
        let shared = self.shared.clone();
        let terminals = Arc::clone(&self.terminals);
        reply.accept().await;
        tokio::spawn(async move {
            channel::serve(shared, who, channel, terminals).await;
            drop(one);
        });
        Ok(())
    }

    async fn channel_close(
        &mut self,
        channel: ChannelId,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.terminals().remove(&channel);
        self.running.remove(&channel);
        Ok(())
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _: &str,
        _: u32,
        _: u32,
        _: u32,
        _: u32,
        _: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let access = self
            .who()
            .and_then(|who| Access::of(&self.shared.registry, &who).ok());
        let allowed = access.is_some_and(|access| access.allows_pty());
        if allowed && !self.running.contains(&channel) && self.terminals().insert(channel) {
            session.channel_success(channel)
        } else {
            session.channel_failure(channel)
        }
    }

    async fn shell_request(
        &mut self,
        channel: ChannelId,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.start(channel, session)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        _: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.start(channel, session)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        _: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        _: &str,
        _: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _: bool,
        _: &str,
        _: &str,
        _: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }
}
