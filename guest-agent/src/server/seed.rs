//! `seed.v1.Guest`: what Kata's dialect has no word for. Adapters only.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use seed_journal::{Gap, GapReason, Mark, Position, Query};
use seed_protocol::{
    JournalNamespace,
    seed::{
        v1,
        v1::{
            ClosePortRequest, ClosePortResponse, ControlUnitRequest, ControlUnitResponse,
            GetIdentityRequest, GetStatusRequest, GuestStatus, Identity, JournalBatch,
            ListUnitsRequest, ListUnitsResponse, OpenPortRequest, OpenPortResponse,
            ReadJournalRequest, ReadPortRequest, ReadPortResponse, ShowUnitRequest, Unit,
            UnitDetails, WritePortRequest, WritePortResponse, control_unit_request, gap, identity,
        },
        v1_ttrpc,
    },
};
use ttrpc::asynchronous::TtrpcContext;

use super::error::RequestError;
use crate::{
    agent::Context,
    identity::Origin,
    journal::{Batch, Request, Turn},
    systemd::{self, Action, UnitName},
};

/// The size of a batch for callers who name none, and the largest: a ttrpc frame has 4 MiB.
const DEFAULT_BATCH_BYTES: u32 = 128 * 1024;
const MAX_BATCH_BYTES: u32 = 1024 * 1024;

/// Units, and matches, of one filter, and the longest of them.
const MAX_CONDITIONS: usize = 64;
const MAX_MATCH_BYTES: usize = 4096;

/// Serves `seed.v1.Guest`.
#[derive(Debug)]
pub struct Service {
    ctx: Arc<Context>,
}

impl Service {
    /// Serves with what `ctx` holds.
    pub fn new(ctx: Arc<Context>) -> Self {
        Self { ctx }
    }
}

#[async_trait]
impl v1_ttrpc::Guest for Service {
    async fn get_status(
        &self,
        _: &TtrpcContext,
        request: GetStatusRequest,
    ) -> ttrpc::Result<GuestStatus> {
        let wait = Duration::from_millis(request.wait_ms.into());
        Ok(self
            .ctx
            .status
            .wait_change(request.after_revision, wait)
            .await)
    }

    async fn get_identity(
        &self,
        _: &TtrpcContext,
        _: GetIdentityRequest,
    ) -> ttrpc::Result<Identity> {
        let identity = self.ctx.identity.get().map_err(RequestError::from)?;
        let origin = match identity.origin {
            Origin::File => identity::Origin::ORIGIN_FILE,
            Origin::Nv => identity::Origin::ORIGIN_NV,
            Origin::Created => identity::Origin::ORIGIN_CREATED,
        };
        Ok(Identity {
            recipient: identity.recipient,
            tag_recipient: identity.tag_recipient,
            origin: origin.into(),
            path: identity.path.to_string_lossy().into_owned(),
            ..Default::default()
        })
    }

    async fn read_journal(
        &self,
        _: &TtrpcContext,
        request: ReadJournalRequest,
    ) -> ttrpc::Result<JournalBatch> {
        let request = journal_request(request)?;
        let turn = request.turn.map_or(0, |turn| turn.number);
        let batch = self.ctx.journal.read(request).await;
        let batch = batch.map_err(RequestError::from)?;
        Ok(JournalBatch {
            turn,
            ..journal_batch(batch)
        })
    }

    async fn list_units(
        &self,
        _: &TtrpcContext,
        request: ListUnitsRequest,
    ) -> ttrpc::Result<ListUnitsResponse> {
        let units = self.ctx.systemd.list_units(&request.patterns).await;
        let units = units
            .map_err(RequestError::from)?
            .into_iter()
            .map(wire_unit);
        Ok(ListUnitsResponse {
            units: units.collect(),
            ..Default::default()
        })
    }

    async fn show_unit(
        &self,
        _: &TtrpcContext,
        request: ShowUnitRequest,
    ) -> ttrpc::Result<UnitDetails> {
        let shown = self.ctx.systemd.show_unit(&shown(&request)?).await;
        let details = shown.map_err(RequestError::from)?;
        Ok(UnitDetails {
            unit: Some(wire_unit(details.unit)).into(),
            fragment_path: details.fragment_path,
            file_state: details.file_state,
            since_realtime_us: details.since_realtime_us,
            result: details.result,
            main_pid: details.main_pid,
            exec_main_code: details.exec_main_code,
            exec_main_status: details.exec_main_status,
            restarts: details.restarts,
            memory_bytes: details.memory_bytes,
            tasks: details.tasks,
            cpu_ns: details.cpu_ns,
            job_id: details.job_id,
            ..Default::default()
        })
    }

    async fn control_unit(
        &self,
        _: &TtrpcContext,
        request: ControlUnitRequest,
    ) -> ttrpc::Result<ControlUnitResponse> {
        let (unit, action) = control(&request)?;
        let result = self.ctx.control_unit(&unit, action).await;
        let result = result.map_err(RequestError::from)?;
        Ok(ControlUnitResponse {
            result,
            ..Default::default()
        })
    }

    async fn open_port(
        &self,
        _: &TtrpcContext,
        request: OpenPortRequest,
    ) -> ttrpc::Result<OpenPortResponse> {
        let id = self.ctx.ports.open(request.port).await;
        let id = id.map_err(RequestError::from)?;
        Ok(OpenPortResponse {
            id,
            ..Default::default()
        })
    }

    async fn read_port(
        &self,
        _: &TtrpcContext,
        request: ReadPortRequest,
    ) -> ttrpc::Result<ReadPortResponse> {
        let max = usize::try_from(request.max_bytes).unwrap_or(usize::MAX);
        let wait = Duration::from_millis(request.wait_ms.into());
        let read = self.ctx.ports.read(request.id, max, wait).await;
        let (data, end) = read.map_err(RequestError::from)?;
        Ok(ReadPortResponse {
            data,
            end,
            ..Default::default()
        })
    }

    async fn write_port(
        &self,
        _: &TtrpcContext,
        request: WritePortRequest,
    ) -> ttrpc::Result<WritePortResponse> {
        let WritePortRequest {
            id,
            data,
            end,
            wait_ms,
            ..
        } = request;
        let wait = Duration::from_millis(wait_ms.into());
        let written = self.ctx.ports.write(id, &data, end, wait).await;
        let written = written.map_err(RequestError::from)?;
        Ok(WritePortResponse {
            // It is at most a frame's length.
            written: u32::try_from(written).unwrap_or(u32::MAX),
            ..Default::default()
        })
    }

    async fn close_port(
        &self,
        _: &TtrpcContext,
        request: ClosePortRequest,
    ) -> ttrpc::Result<ClosePortResponse> {
        self.ctx.ports.close(request.id);
        Ok(ClosePortResponse::default())
    }
}

/// Which unit shall be shown.
pub(super) fn shown(request: &ShowUnitRequest) -> Result<UnitName, RequestError> {
    Ok(UnitName::try_from(request.name.as_str())?)
}

fn wire_unit(unit: systemd::Unit) -> Unit {
    Unit {
        name: unit.name,
        description: unit.description,
        load_state: unit.load_state,
        active_state: unit.active_state,
        sub_state: unit.sub_state,
        ..Default::default()
    }
}

/// What shall be done to which unit.
pub(super) fn control(request: &ControlUnitRequest) -> Result<(UnitName, Action), RequestError> {
    let unit = UnitName::try_from(request.name.as_str())?;
    Ok((unit, action(request)?))
}

fn action(request: &ControlUnitRequest) -> Result<Action, RequestError> {
    use control_unit_request::Action as Wire;
    match request.action.enum_value() {
        Ok(Wire::ACTION_START) => Ok(Action::Start),
        Ok(Wire::ACTION_STOP) => Ok(Action::Stop),
        Ok(Wire::ACTION_RESTART) => Ok(Action::Restart),
        Ok(Wire::ACTION_RELOAD) => Ok(Action::Reload),
        Ok(Wire::ACTION_RESET_FAILED) => Ok(Action::ResetFailed),
        Ok(Wire::ACTION_UNSPECIFIED) => Err(RequestError::Invalid("no action".to_owned())),
        Err(number) => Err(RequestError::Invalid(format!(
            "there is no action {number}"
        ))),
    }
}

pub(super) fn journal_request(request: ReadJournalRequest) -> Result<Request, RequestError> {
    let max_bytes = match request.max_bytes {
        0 => DEFAULT_BATCH_BYTES,
        bytes => bytes.min(MAX_BATCH_BYTES),
    };
    Ok(Request {
        after: position(request.after.unwrap_or_default())?,
        max_bytes: usize::try_from(max_bytes).unwrap_or(usize::MAX),
        wait: Duration::from_millis(request.wait_ms.into()),
        synchronize: request.synchronize,
        turn: request.turn.into_option().and_then(turn),
        filter: query(request.filter.unwrap_or_default())?,
        namespace: namespace(&request.namespace)?,
    })
}

/// Empty: the system's journal.
fn namespace(name: &str) -> Result<Option<JournalNamespace>, RequestError> {
    let named = (!name.is_empty()).then(|| JournalNamespace::try_from(name));
    named
        .transpose()
        .map_err(|error| RequestError::Invalid(error.to_string()))
}

fn query(filter: v1::JournalFilter) -> Result<Query, RequestError> {
    let v1::JournalFilter {
        units,
        priority,
        matches,
        ..
    } = filter;
    let invalid = |what: String| Err(RequestError::Invalid(what));
    if units.len().max(matches.len()) > MAX_CONDITIONS {
        return invalid(format!(
            "a filter has more than {MAX_CONDITIONS} conditions"
        ));
    }
    let units = units.iter().map(|unit| UnitName::try_from(unit.as_str()));
    let units: Vec<UnitName> = units
        .collect::<Result<_, _>>()
        .map_err(RequestError::from)?;
    if let Some(found) = matches.iter().find(|found| !is_match(found)) {
        let start = String::from_utf8_lossy(&found[..found.len().min(64)]).into_owned();
        return invalid(format!("{start:?} is no FIELD=value"));
    }
    let mut query = Query::new().matches(matches.iter().map(Vec::as_slice));
    if !units.is_empty() {
        query = query.units(units.iter().map(UnitName::as_str));
    }
    match priority {
        None => Ok(query),
        Some(level @ 0..=7) => Ok(query.priority(u8::try_from(level).unwrap_or(7))),
        Some(level) => invalid(format!("there is no priority {level}")),
    }
}

/// A field's name as in journald, and a value.
fn is_match(bytes: &[u8]) -> bool {
    let name = bytes.iter().position(|byte| *byte == b'=');
    let name = name.map_or(&[][..], |end| &bytes[..end]);
    let is_known = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_';
    bytes.len() <= MAX_MATCH_BYTES && !name.is_empty() && name.iter().all(is_known)
}

/// A caller without a number is none.
fn turn(turn: v1::Turn) -> Option<Turn> {
    let v1::Turn {
        caller,
        number,
        follows,
        ..
    } = turn;
    (caller != 0).then_some(Turn {
        caller,
        number,
        follows,
    })
}

fn position(position: v1::Position) -> Result<Position, RequestError> {
    let v1::Position {
        seqnum_id,
        seqnum,
        boot_id,
        realtime_us,
        monotonic_us,
        xor_hash,
        ..
    } = position;
    let Some(seqnum_id) = id("seqnum_id", &seqnum_id)? else {
        return Ok(Position::START);
    };
    let mark = id("boot_id", &boot_id)?.map(|boot_id| Mark {
        boot_id,
        realtime_us,
        monotonic_us,
        xor_hash,
    });
    Ok(Position {
        seqnum_id,
        seqnum,
        mark,
    })
}

/// 16 bytes, or none at all.
fn id(field: &str, bytes: &[u8]) -> Result<Option<[u8; 16]>, RequestError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let id = bytes.try_into();
    id.map(Some)
        .map_err(|_| RequestError::Invalid(format!("{field} has {} bytes", bytes.len())))
}

fn journal_batch(batch: Batch) -> JournalBatch {
    let Batch {
        outcome,
        block,
        position,
        namespaces,
    } = batch;
    JournalBatch {
        seqnum_id: wire_id(outcome.seqnum_id),
        first_seqnum: outcome.first,
        last_seqnum: outcome.last,
        count: outcome.count,
        block,
        gap: outcome.gap.map(wire_gap).into(),
        reset: outcome.reset,
        tail_seqnum: outcome.tail_seqnum,
        position: position.map(wire_position).into(),
        namespaces: namespaces.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

/// Nothing stands for an id that is not known.
fn wire_id(id: [u8; 16]) -> Vec<u8> {
    if id == [0; 16] {
        Vec::new()
    } else {
        id.to_vec()
    }
}

fn wire_position(position: Position) -> v1::Position {
    let Position {
        seqnum_id,
        seqnum,
        mark,
    } = position;
    let place = v1::Position {
        seqnum_id: wire_id(seqnum_id),
        seqnum,
        ..Default::default()
    };
    let Some(mark) = mark else { return place };
    v1::Position {
        boot_id: wire_id(mark.boot_id),
        realtime_us: mark.realtime_us,
        monotonic_us: mark.monotonic_us,
        xor_hash: mark.xor_hash,
        ..place
    }
}

fn wire_gap(gap: Gap) -> v1::Gap {
    let reason = match gap.reason {
        GapReason::Vacuumed => gap::Reason::REASON_VACUUMED,
        GapReason::Corrupt => gap::Reason::REASON_CORRUPT,
    };
    v1::Gap {
        first_seqnum: gap.from,
        last_seqnum: gap.to,
        reason: reason.into(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_without_a_writer_is_the_beginning() {
        assert_eq!(position(v1::Position::default()).unwrap(), Position::START);
        let bare = v1::Position {
            seqnum_id: vec![1; 16],
            seqnum: 7,
            ..Default::default()
        };
        let bare = position(bare).unwrap();
        assert_eq!((bare.seqnum, bare.mark), (7, None));
        let torn = v1::Position {
            seqnum_id: vec![1; 15],
            ..Default::default()
        };
        assert!(position(torn).is_err());
    }

    #[test]
    fn a_position_comes_back_as_it_went() {
        let mark = Mark {
            boot_id: [3; 16],
            realtime_us: 5,
            monotonic_us: 6,
            xor_hash: 7,
        };
        let marked = Position {
            seqnum_id: [1; 16],
            seqnum: 9,
            mark: Some(mark),
        };
        let bare = Position {
            mark: None,
            ..marked
        };
        for at in [Position::START, bare, marked] {
            assert_eq!(position(wire_position(at)).unwrap(), at);
        }
    }

    #[test]
    fn a_filter_is_what_it_says_or_is_refused() {
        let refused = |filter: v1::JournalFilter| query(filter).unwrap_err().to_string();
        let matches = |text: &[u8]| v1::JournalFilter {
            matches: vec![text.to_vec()],
            ..Default::default()
        };
        assert!(query(v1::JournalFilter::default()).unwrap().is_empty());
        let wanted = Query::new().matches([&b"_UID=0"[..]]);
        assert_eq!(query(matches(b"_UID=0")).unwrap(), wanted);
        let urgent = v1::JournalFilter {
            priority: Some(3),
            ..Default::default()
        };
        assert_eq!(query(urgent).unwrap(), Query::new().priority(3));
        for bad in [&b"_UID"[..], b"=x", b"uid=0", &[b'A'; 5000]] {
            assert!(refused(matches(bad)).contains("is no FIELD=value"));
        }
        let level = v1::JournalFilter {
            priority: Some(8),
            ..Default::default()
        };
        assert!(refused(level).contains("no priority 8"));
        let many = v1::JournalFilter {
            units: vec!["a.service".to_owned(); 65],
            ..Default::default()
        };
        assert!(refused(many).contains("more than 64"));
    }

    #[test]
    fn sizes_are_bounded() {
        let bytes = |max_bytes| {
            let request = ReadJournalRequest {
                max_bytes,
                ..Default::default()
            };
            journal_request(request).unwrap().max_bytes
        };
        assert_eq!(
            (bytes(0), bytes(1), bytes(u32::MAX)),
            (128 * 1024, 1, 1024 * 1024)
        );
    }

    #[test]
    fn an_action_has_to_be_named() {
        assert!(action(&ControlUnitRequest::default()).is_err());
        let start = control_unit_request::Action::ACTION_START.into();
        let request = ControlUnitRequest {
            action: start,
            ..Default::default()
        };
        assert_eq!(action(&request).unwrap(), Action::Start);
    }
}
