//! A guest's side of a file server: one queue, one request at a time.

use std::{os::unix::fs::FileExt, path::Path};

use super::vhost_user::{BASE, Machine, NEXT, Ring, WRITE, descriptor};

/// The queue for requests; the one before it is for what may not wait.
const QUEUE: u32 = 1;

/// What is where in its memory, behind the ring.
const REQUEST: u64 = 0x4000;
const ANSWER: u64 = 0x40000;
const ANSWER_BYTES: u32 = 0x20000;

#[derive(Debug)]
pub(crate) struct Queue {
    machine: Machine,
    ring: Ring,
}

impl Queue {
    /// Connects to a server that comes up, and gives it memory and the queue.
    pub(crate) fn connect(socket: &Path) -> Self {
        let mut machine = Machine::connect(socket);
        let ring = machine.give(QUEUE, 0, 0);
        Self { machine, ring }
    }

    /// The answer to one request.
    pub(crate) fn call(&mut self, request: &[u8]) -> Vec<u8> {
        let length = u32::try_from(request.len()).unwrap();
        assert!(REQUEST + u64::from(length) <= ANSWER);
        let memory = &self.machine.memory;
        memory.write_all_at(request, REQUEST).unwrap();
        let descriptors = [
            descriptor(BASE + REQUEST, length, NEXT, 1),
            descriptor(BASE + ANSWER, ANSWER_BYTES, WRITE, 0),
        ];
        memory.write_all_at(&descriptors.concat(), 0).unwrap();
        self.ring.send(memory, 0);
        self.ring.kick();
        self.ring.wait_for_all(memory);
        let mut length = [0; 4];
        memory.read_exact_at(&mut length, ANSWER).unwrap();
        let length = u32::from_le_bytes(length).min(ANSWER_BYTES);
        let mut answer = vec![0; usize::try_from(length).unwrap()];
        memory.read_exact_at(&mut answer, ANSWER).unwrap();
        answer
    }
}
