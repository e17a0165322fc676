//! The Kata dialect: its messages and services, re-exported from the generated code, and what our
//! agent makes of each of its methods. Follows `agent.proto` of Kata Containers 4.1.
//!
//! The table is data, so that the agent, the tests and the documentation cannot disagree on it.
//!
//! Statuses, where a shim looks at them:
//!
//! | situation | status | why |
//! |---|---|---|
//! | a container that is not this guest's | INVALID_ARGUMENT | as the stock agent: NOT_FOUND would tell a shim that a process has ended |
//! | an exec that is unknown or has ended, to Signal; unknown to Wait, Read, Write | NOT_FOUND | shims take it for "terminated already" |
//! | the exit status of an exec, asked for again | the status | any number may wait; the stock agent forgets it |
//! | a link that is not there | NOT_FOUND, "Link not found" | the Go shim tries again on these words |
//! | ResizeVolume of something else than a mounted volume | NOT_FOUND, FAILED_PRECONDITION | the stock agent has no ResizeVolume |
//! | TtyWinResize of an exec without a terminal | FAILED_PRECONDITION | stock: UNAVAILABLE; shims only log it |
//! | a module of CreateSandbox that cannot be loaded | FAILED_PRECONDITION, with the words of `modprobe` | the sandbox was asked to have it |
//! | GetOOMEvent | no answer until there is an event | a quick one makes shims spin |

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
    /// Answers success and does nothing, for this reason; a shim would fail the instance on an error.
    Accepted(&'static str),
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
                Support::Done | Support::Accepted(_) => continue,
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

const MEMORY: Support = Support::Unsupported("the guest's kernel manages its memory by itself");

/// Every method of [`AGENT_SERVICE`], in the order of `agent.proto`.
pub const AGENT_METHODS: [(&str, Support); 42] = [
    ("CreateSandbox", Support::Done),
    ("DestroySandbox", Support::Done),
    ("CreateContainer", Support::Done),
    ("StartContainer", Support::Done),
    ("RemoveContainer", Support::Done),
    (
        "UpdateContainer",
        Support::Accepted(
            "the container is the whole machine, whose limits the host sets from outside; \
             what it attaches comes with OnlineCPUMem",
        ),
    ),
    ("StatsContainer", Support::Done),
    ("PauseContainer", Support::Done),
    ("ResumeContainer", Support::Done),
    ("UpdateEphemeralMounts", Support::Done),
    (
        "RemoveStaleVirtiofsShareMounts",
        Support::Accepted("the guest ends with its only container, and its mounts with it"),
    ),
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
    // With the guest's own iptables programs, as services of their own; FAILED_PRECONDITION where it has none.
    ("GetIPTables", Support::Done),
    ("SetIPTables", Support::Done),
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
        Support::Unsupported("the guest trusts its host, and what it may do is in its own closure"),
    ),
];
