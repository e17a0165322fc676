//! Two links, each frame that arrives at one sent out at the other (`tc(8)`): an ingress qdisc on each, a u32
//! filter that matches everything, a mirred action that redirects. So the guest's card stands in the place of
//! the pod's, with its hardware address, and the pod's own stack sees nothing of it.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkMessage},
    tc::{
        TcAction, TcActionAttribute, TcActionGeneric, TcActionMirrorOption, TcActionOption,
        TcActionType, TcAttribute, TcFilterU32Option, TcHandle, TcMessage, TcMirror,
        TcMirrorActionType, TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
    },
};
use rustix::io::Errno;
use seed_netlink::Conversation;

use super::NetError;

/// The handle of an ingress qdisc, and the place where it hangs (`TC_H_INGRESS`, `linux/pkt_sched.h`).
const INGRESS: TcHandle = TcHandle {
    major: 0xffff,
    minor: 0,
};
const INGRESS_PARENT: TcHandle = TcHandle {
    major: 0xffff,
    minor: 0xfff1,
};

/// Priority 1 and `ETH_P_ALL` in network order, as `tcm_info` has them.
const ALL_FRAMES: u32 = 1 << 16 | 0x0300;

/// A CNI plugin or the kernel may be at work on the link still.
const BUSY_LIMIT: Duration = Duration::from_secs(5);
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// Brings a link up with this MTU.
pub(super) fn up(kernel: &mut Conversation, index: u32, mtu: u32) -> Result<(), NetError> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes.push(LinkAttribute::Mtu(mtu));
    patiently("bringing the tap device up", || {
        kernel.change(RouteNetlinkMessage::SetLink(message.clone()), 0)
    })
}

/// Redirects what arrives at `from` to `to`. What an earlier machine of the pod left there is taken away.
pub(super) fn add(kernel: &mut Conversation, from: u32, to: u32) -> Result<(), NetError> {
    remove(kernel, from);
    patiently("adding an ingress qdisc", || {
        let message = RouteNetlinkMessage::NewQueueDiscipline(qdisc(from));
        kernel.change(message, NLM_F_CREATE | NLM_F_EXCL)
    })?;
    patiently("adding a redirection", || {
        let message = RouteNetlinkMessage::NewTrafficFilter(filter(from, to));
        kernel.change(message, NLM_F_CREATE | NLM_F_EXCL)
    })
}

/// Takes a redirection away; one that is not there is no error.
pub(super) fn remove(kernel: &mut Conversation, from: u32) {
    let message = RouteNetlinkMessage::DelQueueDiscipline(qdisc(from));
    if let Err(error) = kernel.change(message, 0) {
        tracing::debug!(link = from, %error, "no redirection was there");
    }
}

fn patiently(what: &'static str, attempt: impl FnMut() -> io::Result<()>) -> Result<(), NetError> {
    within(BUSY_LIMIT, what, attempt)
}

fn within(
    limit: Duration,
    what: &'static str,
    mut attempt: impl FnMut() -> io::Result<()>,
) -> Result<(), NetError> {
    let until = Instant::now() + limit;
    loop {
        match attempt() {
            Err(error)
                if error.raw_os_error() == Some(Errno::BUSY.raw_os_error())
                    && Instant::now() < until =>
            {
                thread::sleep(BUSY_PAUSE);
            }
            other => return other.map_err(|source| NetError::Kernel { what, source }),
        }
    }
}

fn on(index: u32) -> TcMessage {
    let mut message = TcMessage::default();
    // The kernel's numbers of links are positive `int`s.
    message.header.index = i32::try_from(index).unwrap_or(i32::MAX);
    message
}

fn qdisc(index: u32) -> TcMessage {
    let mut message = on(index);
    message.header.handle = INGRESS;
    message.header.parent = INGRESS_PARENT;
    message.attributes = vec![TcAttribute::Kind("ingress".into())];
    message
}

fn filter(from: u32, to: u32) -> TcMessage {
    let mut everything = TcU32Selector::default();
    everything.flags = TcU32SelectorFlags::Terminal;
    everything.nkeys = 1;
    everything.keys = vec![TcU32Key::default()];
    let mut generic = TcActionGeneric::default();
    generic.action = TcActionType::Stolen;
    let mut mirror = TcMirror::default();
    mirror.generic = generic;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = to;
    let mut action = TcAction::default();
    action.tab = 1;
    action.attributes = vec![
        TcActionAttribute::Kind("mirred".into()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(
            mirror,
        ))]),
    ];
    let mut message = on(from);
    message.header.parent = INGRESS;
    message.header.info = ALL_FRAMES;
    message.attributes = vec![
        TcAttribute::Kind("u32".into()),
        TcAttribute::Options(vec![
            TcOption::U32(TcFilterU32Option::Selector(everything)),
            TcOption::U32(TcFilterU32Option::Action(vec![action])),
        ]),
    ];
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(errors: &[Errno], limit: Duration) -> (usize, Result<(), String>) {
        let mut tries = 0;
        let done = within(limit, "adding a qdisc", || {
            tries += 1;
            match errors.get(tries - 1) {
                Some(error) => Err((*error).into()),
                None => Ok(()),
            }
        });
        let said = done.map_err(|error| error.to_string());
        (tries, said)
    }

    #[test]
    fn a_busy_link_is_tried_again_and_another_error_is_not() {
        let (tries, done) = failing(&[Errno::BUSY, Errno::BUSY], BUSY_LIMIT);
        assert_eq!((tries, done), (3, Ok(())));
        let failed = Err("adding a qdisc in the pod's network failed".to_owned());
        let (tries, done) = failing(&[Errno::PERM, Errno::BUSY], BUSY_LIMIT);
        assert_eq!((tries, done), (1, failed.clone()));
        let (tries, done) = failing(&[Errno::BUSY; 1000], 2 * BUSY_PAUSE);
        assert_eq!(done, failed);
        assert!((1..1000).contains(&tries), "{tries}");
    }
}
