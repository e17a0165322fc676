//! The Kata dialect: its messages and services, re-exported from the generated code, and what our
//! agent makes of each of its methods. Follows `agent.proto` of Kata Containers 4.1.
//!
//! The table is data, so that the agent, the tests and the documentation cannot disagree on it.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use ttrpc::{
    Code, Request, Response,
    r#async::{MethodHandler, Service, TtrpcContext},
    get_status,
};

pub use crate::generated::{agent, agent_ttrpc, csi, empty, health, health_ttrpc, oci, types};

/// The full name of the agent's service on the wire.
pub const AGENT_SERVICE: &str = "grpc.AgentService";

/// The full name of the health service on the wire.
pub const HEALTH_SERVICE: &str = "grpc.Health";

/// What our agent does when a method of [`AGENT_SERVICE`] is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// Does what a Kata shim expects.
    Done,
    /// Answers success and has nothing to do; a shim would fail the instance on an error.
    Accepted,
    /// Answers UNIMPLEMENTED with the method's name and this reason, for good.
    Unsupported(&'static str),
}

impl Support {
    /// True when a caller gets UNIMPLEMENTED.
    pub const fn is_refused(self) -> bool {
        matches!(self, Self::Unsupported(_))
    }
}

/// What our agent does with the method of this name, `None` for a name that the dialect lacks.
pub fn support(method: &str) -> Option<Support> {
    AGENT_METHODS
        .iter()
        .find(|(name, _)| *name == method)
        .map(|(_, support)| *support)
}

/// The service map of an agent, in which every method that [`AGENT_METHODS`] refuses answers
/// UNIMPLEMENTED with its name. An agent implements the rest. (A generated default would answer
/// NOT_FOUND, which a Kata shim takes for "the process is gone".)
pub fn agent_service(
    agent: Arc<dyn agent_ttrpc::AgentService + Send + Sync>,
) -> HashMap<String, Service> {
    let mut services = agent_ttrpc::create_agent_service(agent);
    for service in services.values_mut() {
        for (name, support) in AGENT_METHODS {
            let message = match support {
                Support::Done | Support::Accepted => continue,
                Support::Unsupported(reason) => format!("{name} is not supported: {reason}"),
            };
            service
                .methods
                .insert(name.to_owned(), Box::new(Refused { message }));
        }
    }
    services
}

/// The handler of a refused method.
struct Refused {
    message: String,
}

#[async_trait]
impl MethodHandler for Refused {
    async fn handler(&self, _: TtrpcContext, _: Request) -> ttrpc::Result<Response> {
        let mut response = Response::new();
        response.set_status(get_status(Code::UNIMPLEMENTED, &self.message));
        Ok(response)
    }
}

const FIREWALL: Support =
    Support::Unsupported("the guest's firewall belongs to its own configuration");
const MEMORY: Support = Support::Unsupported("the guest's kernel manages its memory by itself");

/// Every method of [`AGENT_SERVICE`], in the order of `agent.proto`.
pub const AGENT_METHODS: [(&str, Support); 42] = [
    ("CreateSandbox", Support::Done),
    ("DestroySandbox", Support::Done),
    ("CreateContainer", Support::Done),
    ("StartContainer", Support::Done),
    ("RemoveContainer", Support::Done),
    // The limits of the container are those of its machine, which the host sets from outside.
    ("UpdateContainer", Support::Accepted),
    ("StatsContainer", Support::Done),
    ("PauseContainer", Support::Done),
    ("ResumeContainer", Support::Done),
    ("UpdateEphemeralMounts", Support::Done),
    // There is no shared directory per container that could be stale.
    ("RemoveStaleVirtiofsShareMounts", Support::Accepted),
    ("ExecProcess", Support::Done),
    ("SignalProcess", Support::Done),
    ("WaitProcess", Support::Done),
    ("WriteStdin", Support::Done),
    ("ReadStdout", Support::Done),
    ("ReadStderr", Support::Done),
    ("CloseStdin", Support::Done),
    ("TtyWinResize", Support::Done),
    ("UpdateInterface", Support::Done),
    ("UpdateRoutes", Support::Done),
    ("ListInterfaces", Support::Done),
    ("ListRoutes", Support::Done),
    ("AddARPNeighbors", Support::Done),
    ("GetIPTables", FIREWALL),
    ("SetIPTables", FIREWALL),
    ("GetMetrics", Support::Done),
    ("GetGuestDetails", Support::Done),
    ("OnlineCPUMem", Support::Done),
    ("MemHotplugByProbe", Support::Done),
    ("ReseedRandomDev", Support::Done),
    ("SetGuestDateTime", Support::Done),
    ("GetOOMEvent", Support::Done),
    ("MemAgentMemcgSet", MEMORY),
    ("MemAgentCompactSet", MEMORY),
    ("CopyFile", Support::Done),
    ("GetVolumeStats", Support::Done),
    ("ResizeVolume", Support::Done),
    ("GetDiagnosticData", Support::Done),
    ("AddSwap", Support::Done),
    ("AddSwapPath", Support::Done),
    (
        "SetPolicy",
        Support::Unsupported("the guest takes no policy from the host"),
    ),
];
