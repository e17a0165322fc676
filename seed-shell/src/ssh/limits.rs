//! How many connections there may be, in all and from one address, before and after authentication, and how fast
//! they may come. Pure bookkeeping: who asks closes what is refused.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::config::Limits;

/// Addresses whose rate is remembered; beyond, those that are quiet are forgotten.
const REMEMBERED: usize = 10_000;

/// Why a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Too many in all.
    Full,
    /// Too many from this address.
    Address,
    /// Too many in all that have not authenticated.
    HalfOpen,
    /// The same from this address.
    HalfOpenAddress,
    /// Too fast.
    Rate,
}

/// The door.
#[derive(Debug, Clone)]
pub struct Gate {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    limits: Limits,
    all: Count,
    half_open: Count,
    rates: HashMap<IpAddr, Bucket>,
}

#[derive(Debug, Default)]
struct Count {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Count {
    fn of(&self, address: IpAddr) -> usize {
        self.by_address.get(&address).copied().unwrap_or(0)
    }

    fn add(&mut self, address: IpAddr) {
        self.total += 1;
        *self.by_address.entry(address).or_default() += 1;
    }

    fn remove(&mut self, address: IpAddr) {
        self.total = self.total.saturating_sub(1);
        if let Some(count) = self.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

/// A token bucket: as many at once as come in a minute.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

/// A place inside; left when it is dropped.
#[derive(Debug)]
pub struct Place {
    gate: Gate,
    address: IpAddr,
    half_open: bool,
}

impl Gate {
    /// With these limits.
    pub fn new(limits: Limits) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                limits,
                all: Count::default(),
                half_open: Count::default(),
                rates: HashMap::new(),
            })),
        }
    }

    /// Lets a new connection in, or says why not.
    pub fn enter(&self, address: IpAddr, now: Instant) -> Result<Place, Refusal> {
        let address = neighbourhood(address);
        let mut state = self.lock();
        let State {
            limits,
            all,
            half_open,
            ..
        } = &*state;
        if all.total >= limits.connections {
            return Err(Refusal::Full);
        }
        if all.of(address) >= limits.connections_per_address {
            return Err(Refusal::Address);
        }
        if half_open.total >= limits.half_open {
            return Err(Refusal::HalfOpen);
        }
        if half_open.of(address) >= limits.half_open_per_address {
            return Err(Refusal::HalfOpenAddress);
        }
        if !state.take_token(address, now) {
            return Err(Refusal::Rate);
        }
        state.all.add(address);
        state.half_open.add(address);
        Ok(Place {
            gate: self.clone(),
            address,
            half_open: true,
        })
    }

    /// A panic elsewhere leaves the counts as good as before: each change is one addition.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_token(&mut self, address: IpAddr, now: Instant) -> bool {
        let most = f64::from(self.limits.new_per_minute);
        let refill = |bucket: &Bucket| {
            let seconds = now.saturating_duration_since(bucket.at).as_secs_f64();
            (bucket.tokens + seconds * most / 60.0).min(most)
        };
        if self.rates.len() >= REMEMBERED {
            self.rates.retain(|_, bucket| refill(bucket) < most);
        }
        let bucket = self.rates.entry(address).or_insert(Bucket {
            tokens: most,
            at: now,
        });
        bucket.tokens = refill(bucket);
        bucket.at = now;
        let taken = bucket.tokens >= 1.0;
        if taken {
            bucket.tokens -= 1.0;
        }
        taken
    }
}

impl Place {
    /// It has authenticated.
    pub fn authenticated(&mut self) {
        if std::mem::take(&mut self.half_open) {
            self.gate.lock().half_open.remove(self.address);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.authenticated();
        self.gate.lock().all.remove(self.address);
    }
}

/// Who has one IPv6 address has the 2^64 beside it as well.
fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn gate() -> Gate {
        Gate::new(Limits {
            connections: 6,
            connections_per_address: 4,
            half_open: 3,
            half_open_per_address: 2,
            new_per_minute: 5,
            ..Limits::default()
        })
    }

    fn address(n: u8) -> IpAddr {
        [192, 0, 2, n].into()
    }

    #[test]
    fn half_open_connections_of_one_do_not_shut_out_others() {
        let (gate, now) = (gate(), Instant::now());
        let held: Vec<_> = (0..2)
            .map(|_| gate.enter(address(1), now).unwrap())
            .collect();
        assert_eq!(
            gate.enter(address(1), now).unwrap_err(),
            Refusal::HalfOpenAddress
        );
        let other = gate.enter(address(2), now).unwrap();
        assert_eq!(gate.enter(address(3), now).unwrap_err(), Refusal::HalfOpen);
        drop(held);
        gate.enter(address(3), now).unwrap();
        drop(other);
        assert_eq!(gate.lock().all.total, 0);
        assert!(gate.lock().half_open.by_address.is_empty());
    }

    #[test]
    fn authenticated_ones_count_by_address_and_in_all() {
        let (gate, now) = (gate(), Instant::now());
        let enter = |n| {
            let mut place = gate.enter(address(n), now)?;
            place.authenticated();
            place.authenticated();
            Ok::<_, Refusal>(place)
        };
        let _held: Vec<_> = (0..4).map(|_| enter(1).unwrap()).collect();
        assert_eq!(enter(1).unwrap_err(), Refusal::Address);
        let _more: Vec<_> = (0..2).map(|_| enter(2).unwrap()).collect();
        assert_eq!(enter(3).unwrap_err(), Refusal::Full);
    }

    #[test]
    fn the_rate_of_an_address_recovers() {
        let (gate, now) = (gate(), Instant::now());
        for _ in 0..5 {
            drop(gate.enter(address(1), now).unwrap());
        }
        assert_eq!(gate.enter(address(1), now).unwrap_err(), Refusal::Rate);
        gate.enter(address(2), now).unwrap();
        gate.enter(address(1), now + Duration::from_secs(13))
            .unwrap();
    }

    #[test]
    fn an_ipv6_network_counts_as_one() {
        let one: IpAddr = "2001:db8::1".parse().unwrap();
        let two: IpAddr = "2001:db8::ffff:2".parse().unwrap();
        assert_eq!(neighbourhood(one), neighbourhood(two));
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(neighbourhood(mapped), address(1));
    }
}
