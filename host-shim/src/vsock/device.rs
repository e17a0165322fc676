//! The device as its VMM sees it (QEMU: `docs/interop/vhost-user.rst`; virtio 1.2, section 5.10): a ring of packets to the
//! guest and one from it, behind the [`Hub`] that knows what they mean.
//!
//! A machine that stops takes its rings away, at any moment, and gives them back when it runs on. In between nothing is
//! taken from the host's sockets either, so whatever was on its way is there when the machine is.

use std::{
    io::{self, Read, Write},
    os::fd::OwnedFd,
    time::Duration,
};

use rustix::{
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    io::read,
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackendMut, VringRwLock, VringState, VringT};
use virtio_queue::{DescriptorChain, QueueOwnedT, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::{epoll::EventSet, eventfd::EventFd};

use super::{
    hub::Hub,
    packet::{HEADER_BYTES, Header},
};

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;
/// The memory as it is now.
type Snapshot = <Memory as GuestAddressSpace>::T;

/// The rings: to the guest, from it, and one for events that there are none of, which QEMU keeps to itself.
const TO_GUEST: usize = 0;
const FROM_GUEST: usize = 1;
const RINGS: usize = 3;

/// The events' number of what is no ring: the numbers up to [`RINGS`] are taken.
pub(super) const OF_HOST: u64 = 4;

/// QEMU's vsock device has 128.
const MAX_RING: usize = 1024;

/// What a packet may carry: Linux sends 64 KiB at most.
const MAX_DATA_BYTES: usize = 64 * 1024;

/// `VIRTIO_F_VERSION_1` and `VIRTIO_RING_F_EVENT_IDX`.
const FEATURES: u64 = 1 << 32 | 1 << 29;

/// How often rings that were taken away are looked for, and a listener that could not accept is asked again.
const TICK: Duration = Duration::from_millis(20);

/// How many ticks more there are when they came back: a kick while a ring was not enabled yet was for nobody.
const MORE_TICKS: u32 = 50;

/// The device of one guest.
#[derive(Debug)]
pub(super) struct Device {
    cid: u64,
    hub: Hub,
    memory: Option<Memory>,
    /// What is to be done before the guest is there.
    settle: fn(),
    /// The hub while the machine runs, and the clock.
    gate: OwnedFd,
    clock: OwnedFd,
    runs: bool,
    /// Ticks that are left; while the machine stands still they do not count.
    ticks: u32,
    exit: EventFd,
    /// Where a packet's data is on its way.
    data: Vec<u8>,
}

impl Device {
    pub(super) fn new(cid: u64, hub: Hub, settle: fn()) -> io::Result<Self> {
        let gate = epoll::create(CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let clock = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        epoll::add(&gate, &clock, EventData::new_u64(0), EventFlags::IN)?;
        let device = Self {
            cid,
            hub,
            memory: None,
            settle,
            gate,
            clock,
            runs: false,
            ticks: MORE_TICKS,
            exit: EventFd::new(0)?,
            data: vec![0; MAX_DATA_BYTES],
        };
        device.tick(true)?;
        Ok(device)
    }

    /// Readable when there is something to do that no ring tells of.
    pub(super) fn gate(&self) -> io::Result<OwnedFd> {
        self.gate.try_clone()
    }

    fn tick(&self, on: bool) -> io::Result<()> {
        let every = if on { TICK } else { Duration::ZERO };
        let every = Timespec::try_from(every).map_err(io::Error::other)?;
        let times = Itimerspec {
            it_interval: every,
            it_value: every,
        };
        timerfd_settime(&self.clock, TimerfdTimerFlags::empty(), &times)?;
        Ok(())
    }

    fn tick_on(&mut self) -> io::Result<()> {
        self.ticks = MORE_TICKS;
        self.tick(true)
    }

    /// Sees whether the machine has its rings with us. What comes of it holds only until the next packet is looked for.
    fn see(&mut self, rings: &[VringRwLock]) -> io::Result<()> {
        // The last thing that is given with a ring is whom to call.
        let is_ready = |ring: &VringRwLock| {
            let ring = ring.get_ref();
            ring.get_queue().ready() && ring.get_call().is_some()
        };
        let runs = self.memory.is_some() && rings[..=FROM_GUEST].iter().all(is_ready);
        if runs == self.runs {
            return Ok(());
        }
        if runs {
            let all = EventData::new_u64(0);
            epoll::add(&self.gate, self.hub.happened(), all, EventFlags::IN)?;
        } else {
            epoll::delete(&self.gate, self.hub.happened())?;
            self.tick(true)?;
        }
        self.runs = runs;
        self.ticks = MORE_TICKS;
        Ok(())
    }

    fn hear_clock(&mut self) -> io::Result<()> {
        let ticked = read(&self.clock, &mut [0; 8]).is_ok();
        if ticked && self.runs {
            self.ticks = self.ticks.saturating_sub(1);
            if self.ticks == 0 {
                self.tick(false)?;
            }
        }
        Ok(())
    }

    /// Moves packets both ways until there are none, or no room.
    fn pump(&mut self, rings: &[VringRwLock]) {
        loop {
            let took = self.take_all(&rings[FROM_GUEST]);
            let gave = self.give_all(&rings[TO_GUEST]);
            if !took && !gave {
                return;
            }
        }
    }

    /// Takes the guest's packets; whether there was any. A ring that is taken away meanwhile keeps the rest.
    fn take_all(&mut self, ring: &VringRwLock) -> bool {
        let Some(memory) = self.memory.clone() else {
            return false;
        };
        let mut took = false;
        while self.hub.listens() {
            // One packet for one lock, from the ring and back: nobody takes the ring away in the middle of one.
            let mut ring = ring.get_mut();
            let memory = memory.memory();
            let Some(chain) = next_entry(&mut ring, &memory) else {
                break;
            };
            let head = chain.head_index();
            if let Ok(mut reader) = chain.reader(&memory) {
                let mut bytes = [0; HEADER_BYTES];
                if reader.read_exact(&mut bytes).is_ok() {
                    let header = Header::parse(&bytes);
                    let count = usize::try_from(header.len).unwrap_or(usize::MAX);
                    // A stream has no holes: one that is shorter than it says, or longer than any, ends it.
                    let data = if let Some(data) = self.data.get_mut(..count)
                        && count <= reader.available_bytes()
                        && reader.read_exact(data).is_ok()
                    {
                        Some(&*data)
                    } else {
                        None
                    };
                    self.hub.take(&header, data);
                }
            }
            give_back(&mut ring, head, 0);
            took = true;
        }
        took
    }

    /// Gives the guest what there is for it; whether there was anything and room.
    fn give_all(&mut self, ring: &VringRwLock) -> bool {
        let Some(memory) = self.memory.clone() else {
            return false;
        };
        let mut gave = false;
        while self.hub.may_speak() {
            let mut ring = ring.get_mut();
            let memory = memory.memory();
            let Some(chain) = next_entry(&mut ring, &memory) else {
                break;
            };
            let head = chain.head_index();
            let room = chain.writer(&memory).ok().and_then(|writer| {
                let for_data = writer.available_bytes().checked_sub(HEADER_BYTES)?;
                Some((writer, for_data))
            });
            let Some((mut writer, for_data)) = room else {
                give_back(&mut ring, head, 0);
                continue;
            };
            let for_data = for_data.min(self.data.len());
            let Some(header) = self.hub.next(&mut self.data[..for_data]) else {
                ring.get_queue_mut().go_to_previous_position();
                break;
            };
            let count = usize::try_from(header.len).unwrap_or(0).min(for_data);
            let written = writer
                .write_all(&header.bytes())
                .and_then(|()| writer.write_all(&self.data[..count]));
            // Memory that the guest took away is its own loss.
            let length = if written.is_ok() {
                HEADER_BYTES + count
            } else {
                0
            };
            give_back(&mut ring, head, length);
            gave = true;
        }
        gave
    }
}

/// The next entry of a ring that is there. Where there is none the guest is asked to call; what it gave before it could
/// know that is looked for once: a ring that the guest broke says for ever that there is more.
fn next_entry(ring: &mut VringState, memory: &Snapshot) -> Option<DescriptorChain<Snapshot>> {
    if !ring.get_queue().ready() {
        return None;
    }
    let found = entry(ring, memory);
    if found.is_some() {
        return found;
    }
    let more = ring.enable_notification().unwrap_or(false);
    if more { entry(ring, memory) } else { None }
}

fn entry(ring: &mut VringState, memory: &Snapshot) -> Option<DescriptorChain<Snapshot>> {
    let mut entries = ring.get_queue_mut().iter(memory.clone()).ok()?;
    entries.next()
}

/// Gives an entry of a ring back to the guest, and calls it where it wants that.
fn give_back(ring: &mut VringState, head: u16, length: usize) {
    let length = u32::try_from(length).unwrap_or(0);
    // Errors are of rings that the guest broke: it hears no more of them.
    let _ = ring.add_used(head, length);
    if ring.needs_notification().unwrap_or(true) {
        let _ = ring.signal_used_queue();
    }
}

impl VhostUserBackendMut for Device {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        RINGS
    }

    fn max_queue_size(&self) -> usize {
        MAX_RING
    }

    fn features(&self) -> u64 {
        FEATURES | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::CONFIG
    }

    /// The rings know themselves.
    fn set_event_idx(&mut self, _: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let config = self.cid.to_le_bytes();
        let (offset, size) = (usize::try_from(offset), usize::try_from(size));
        let part = offset.ok().zip(size.ok());
        let part = part.and_then(|(offset, size)| config.get(offset..)?.get(..size));
        part.unwrap_or_default().to_vec()
    }

    /// Told whenever the rings are about to be given, so also where they were away too shortly to be missed. What the
    /// guest said of them in that time is for nobody.
    fn update_memory(&mut self, memory: Memory) -> io::Result<()> {
        (self.settle)();
        self.memory = Some(memory);
        self.tick_on()
    }

    /// An error would end the thread that calls it, for good: there are none but those of our own clock.
    fn handle_event(
        &mut self,
        event: u16,
        _: EventSet,
        rings: &[VringRwLock],
        _: usize,
    ) -> io::Result<()> {
        self.see(rings)?;
        if u64::from(event) == OF_HOST {
            self.hear_clock()?;
            if self.runs {
                self.hub.look()?;
                if self.hub.rests() {
                    self.tick_on()?;
                }
            }
        }
        if self.runs {
            self.pump(rings);
        }
        Ok(())
    }

    fn exit_event(&self, _: usize) -> Option<EventFd> {
        self.exit.try_clone().ok()
    }
}
