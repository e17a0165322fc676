//! Adds processors and memory to a running machine (docs/system/cpu-hotplug.rst, docs/memory-hotplug.txt of QEMU).
//!
//! What is there is asked anew each time, so a try that failed half-way is taken up where it ended.

use serde_json::{Value, json};
use thiserror::Error;

use super::qmp::{Qmp, QmpError};
use crate::spec::MEMORY_STEP_MIB;

/// Why a machine does not grow.
#[derive(Debug, Error)]
pub enum GrowError {
    /// The monitor.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// It answered something else than its documentation says.
    #[error("QEMU's answer to {0} is not understood")]
    Answer(&'static str),
    /// No more fits.
    #[error("the machine has room for {0} processors")]
    Processors(usize),
}

/// Adds what lacks to this many processors and this much memory. Never takes away.
pub async fn grow(qmp: &Qmp, vcpus: u32, memory_mib: u32) -> Result<(), GrowError> {
    processors(qmp, vcpus).await?;
    memory(qmp, memory_mib).await
}

async fn processors(qmp: &Qmp, wanted: u32) -> Result<(), GrowError> {
    const QUERY: &str = "query-hotpluggable-cpus";
    let answer = qmp.call(QUERY, json!({})).await?;
    let slots = answer.as_array().ok_or(GrowError::Answer(QUERY))?;
    let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
    if wanted > slots.len() {
        return Err(GrowError::Processors(slots.len()));
    }
    let (there, mut free): (Vec<&Value>, Vec<&Value>) = slots
        .iter()
        .partition(|slot| slot.get("qom-path").is_some());
    free.sort_by_key(|slot| socket_of(slot));
    for slot in free.iter().take(wanted.saturating_sub(there.len())) {
        let (kind, Some(props)) = (&slot["type"], slot["props"].as_object()) else {
            return Err(GrowError::Answer(QUERY));
        };
        let mut arguments = props.clone();
        arguments.insert("driver".to_owned(), kind.clone());
        arguments.insert("id".to_owned(), format!("cpu{}", socket_of(slot)).into());
        qmp.call("device_add", arguments.into()).await?;
    }
    Ok(())
}

fn socket_of(slot: &Value) -> u64 {
    let socket = slot.pointer("/props/socket-id").and_then(Value::as_u64);
    socket.unwrap_or(u64::MAX)
}

async fn memory(qmp: &Qmp, wanted_mib: u32) -> Result<(), GrowError> {
    const QUERY: &str = "query-memory-size-summary";
    let answer = qmp.call(QUERY, json!({})).await?;
    let bytes = |key| answer.get(key).and_then(Value::as_u64).unwrap_or(0);
    let there_mib = (bytes("base-memory") + bytes("plugged-memory")) >> 20;
    let lacks = u64::from(wanted_mib).saturating_sub(there_mib);
    if lacks == 0 {
        return Ok(());
    }
    let devices = qmp.call("query-memory-devices", json!({})).await?;
    let number = devices.as_array().map_or(0, Vec::len);
    let backend = format!("more{number}");
    let size = lacks.next_multiple_of(u64::from(MEMORY_STEP_MIB)) << 20;
    // Shared, as the memory that was there from the start: daemons of devices read it.
    let object = json!({
        "qom-type": "memory-backend-memfd", "id": backend, "size": size, "share": true,
    });
    qmp.call("object-add", object).await?;
    let device = json!({ "driver": "pc-dimm", "id": format!("dimm{number}"), "memdev": backend });
    if let Err(error) = qmp.call("device_add", device).await {
        if let Err(left) = qmp.call("object-del", json!({ "id": backend })).await {
            tracing::warn!(error = %left, "memory that was not added stays with QEMU");
        }
        return Err(error.into());
    }
    Ok(())
}
