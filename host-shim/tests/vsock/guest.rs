//! A guest's side of the vsock device: its two rings, and the packets in them.

use std::{
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use super::vhost_user::{BASE, ENTRIES, Machine, NEXT, Ring, WRITE, descriptor};

pub(crate) const REQUEST: u16 = 1;
pub(crate) const RESPONSE: u16 = 2;
pub(crate) const RESET: u16 = 3;
pub(crate) const SHUTDOWN: u16 = 4;
pub(crate) const DATA: u16 = 5;
pub(crate) const CREDIT_UPDATE: u16 = 6;
pub(crate) const CREDIT_REQUEST: u16 = 7;

/// The guest's buffer for each connection, as it says.
pub(crate) const BUFFER_BYTES: u32 = 1 << 16;

/// What is where in its memory: the rings, and a page for each of their entries.
const RX: u64 = 0;
const TX: u64 = 0x4000;
const RX_PAGES: u64 = 0x1_0000;
const TX_PAGES: u64 = 0x4_0000;
const PAGE: u64 = 0x1000;
const HEADER: usize = 44;
/// The used ring's entries, from the ring's place on.
const USED_ENTRIES: u64 = 0x2004;

const LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) op: u16,
    pub(crate) host: u32,
    pub(crate) guest: u32,
    pub(crate) flags: u32,
    /// What the other side lets us send, and has passed on.
    pub(crate) buffer: u32,
    pub(crate) passed_on: u32,
}

#[derive(Debug)]
pub(crate) struct Guest {
    machine: Machine,
    rx: Ring,
    tx: Ring,
    seen: u16,
}

impl Guest {
    pub(crate) fn connect(socket: &Path) -> Self {
        let mut machine = Machine::connect(socket);
        let (rx, tx) = (machine.give(0, RX, 0), machine.give(1, TX, 0));
        let mut guest = Self {
            machine,
            rx,
            tx,
            seen: 0,
        };
        (0..ENTRIES).for_each(|page| guest.offer(page));
        guest.rx.kick();
        guest
    }

    fn offer(&mut self, page: u16) {
        let address = BASE + RX_PAGES + PAGE * u64::from(page);
        let one = descriptor(address, 4096, WRITE, 0);
        let memory = &self.machine.memory;
        memory
            .write_all_at(&one, RX + 16 * u64::from(page))
            .unwrap();
        self.rx.send(memory, page);
    }

    /// The machine stands still for as long as `meanwhile` takes.
    pub(crate) fn stand_still<T>(&mut self, meanwhile: impl FnOnce(&mut Self) -> T) -> T {
        let bases = [&self.rx, &self.tx].map(|ring| self.machine.take(ring));
        let came = meanwhile(self);
        self.machine.give_back(&mut self.rx, bases[0]);
        self.machine.give_back(&mut self.tx, bases[1]);
        came
    }

    /// Sends a packet in two pieces, header and data, as Linux sends what lies in several pages. False where the ring
    /// is full.
    pub(crate) fn try_send(&mut self, packet: Packet, data: &[u8], kick: bool) -> bool {
        self.send_bytes(&header(packet, data.len()), data, kick)
    }

    pub(crate) fn send_bytes(&mut self, head: &[u8], data: &[u8], kick: bool) -> bool {
        let memory = &self.machine.memory;
        let pending = self.tx.sent.wrapping_sub(self.tx.used(memory));
        if pending >= ENTRIES / 2 {
            return false;
        }
        // Each packet has two descriptors and a page.
        let slot = self.tx.sent % (ENTRIES / 2);
        let at = TX_PAGES + 2 * PAGE * u64::from(slot);
        memory.write_all_at(head, at).unwrap();
        memory.write_all_at(data, at + PAGE).unwrap();
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
        let second = 2 * slot + 1;
        let chain = [
            descriptor(BASE + at, length(head), NEXT, second),
            descriptor(BASE + at + PAGE, length(data), 0, 0),
        ];
        memory
            .write_all_at(&chain.concat(), TX + 32 * u64::from(slot))
            .unwrap();
        self.tx.send(memory, 2 * slot);
        if kick {
            self.tx.kick();
        }
        true
    }

    /// Says, until the next packet, that there are more than a ring has room for.
    pub(crate) fn mislead(&mut self) {
        let sent = self.tx.sent;
        self.tx.sent = sent.wrapping_add(1000);
        self.tx.send(&self.machine.memory, 0);
        self.tx.kick();
        self.tx.sent = sent;
    }

    pub(crate) fn send(&mut self, packet: Packet, data: &[u8]) {
        let until = Instant::now() + LIMIT;
        while !self.try_send(packet, data, true) {
            assert!(Instant::now() < until, "nothing is taken of the guest");
            self.tx.wait(Duration::from_millis(10));
        }
    }

    /// The next packet, if there is one within the limit.
    pub(crate) fn hear_within(&mut self, limit: Duration) -> Option<(Packet, Vec<u8>)> {
        let until = Instant::now() + limit;
        while self.rx.used(&self.machine.memory) == self.seen {
            let left = until.checked_duration_since(Instant::now())?;
            self.rx.wait(left);
        }
        let memory = &self.machine.memory;
        let mut used = [0; 8];
        let entry = RX + USED_ENTRIES + 8 * u64::from(self.seen % ENTRIES);
        memory.read_exact_at(&mut used, entry).unwrap();
        self.seen = self.seen.wrapping_add(1);
        let page = u16::from_le_bytes([used[0], used[1]]);
        let length = u32::from_le_bytes(used[4..].try_into().unwrap());
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        let place = RX_PAGES + PAGE * u64::from(page);
        memory.read_exact_at(&mut bytes, place).unwrap();
        self.offer(page);
        self.rx.kick();
        Some(parsed(&bytes))
    }

    pub(crate) fn hear(&mut self) -> (Packet, Vec<u8>) {
        let packet = self.hear_within(LIMIT);
        packet.expect("a packet for the guest")
    }

    /// The next one of this kind; others are passed over.
    pub(crate) fn hear_of(&mut self, op: u16) -> (Packet, Vec<u8>) {
        loop {
            let (packet, data) = self.hear();
            if packet.op == op {
                return (packet, data);
            }
        }
    }
}

impl Packet {
    /// Another one on the same connection.
    pub(crate) fn with(self, op: u16) -> Self {
        Self {
            op,
            flags: 0,
            buffer: BUFFER_BYTES,
            passed_on: 0,
            ..self
        }
    }
}

pub(crate) fn header(packet: Packet, length: usize) -> Vec<u8> {
    let length = u32::try_from(length).unwrap();
    [
        &3_u64.to_le_bytes()[..],
        &2_u64.to_le_bytes(),
        &packet.guest.to_le_bytes(),
        &packet.host.to_le_bytes(),
        &length.to_le_bytes(),
        &1_u16.to_le_bytes(),
        &packet.op.to_le_bytes(),
        &packet.flags.to_le_bytes(),
        &packet.buffer.to_le_bytes(),
        &packet.passed_on.to_le_bytes(),
    ]
    .concat()
}

fn parsed(bytes: &[u8]) -> (Packet, Vec<u8>) {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!(bytes[..9], [2, 0, 0, 0, 0, 0, 0, 0, 3], "from and to");
    let packet = Packet {
        op: u16::from_le_bytes([bytes[30], bytes[31]]),
        host: word(16),
        guest: word(20),
        flags: word(32),
        buffer: word(36),
        passed_on: word(40),
    };
    let data = bytes[HEADER..].to_vec();
    assert_eq!(usize::try_from(word(24)).unwrap(), data.len());
    (packet, data)
}
