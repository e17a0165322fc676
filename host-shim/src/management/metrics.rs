//! What management sockets tell, as Prometheus text (its exposition format 0.0.4). The names and what they
//! mean are in the crate's README; a change of one is a change for every dashboard.
//!
//! Instances are labelled with `namespace` and `instance`. What comes from a guest is escaped like any
//! label. Nothing here asks anybody.

use std::{
    collections::BTreeSet,
    fmt::{Display, Write},
};

use seed_protocol::seed::management::{InstanceStatus, ProcessUsage, State, Usage};

use super::words;

/// One instance at one moment.
#[derive(Debug, Clone)]
pub struct Told {
    /// Its containerd namespace.
    pub namespace: String,
    /// Its name.
    pub id: String,
    /// What its socket said; nothing when nobody answers there.
    pub answer: Option<(InstanceStatus, Usage)>,
}

/// The page for these instances.
pub fn text(told: &[Told]) -> String {
    let mut page = Page {
        text: String::new(),
        told,
    };
    page.instances();
    page.guests();
    page.host();
    page.logs();
    page.text
}

struct Page<'a> {
    text: String,
    told: &'a [Told],
}

type Labels<'a> = Vec<(&'static str, String)>;

impl Page<'_> {
    /// One family: a head, and what `samples` has for each instance.
    fn family<V: Display>(
        &mut self,
        (name, kind, help): (&str, &str, &str),
        samples: impl Fn(&InstanceStatus, &Usage) -> Vec<(Labels<'static>, V)>,
    ) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for told in self.told {
            let Some((status, usage)) = &told.answer else {
                continue;
            };
            // Names come from the guest too, and a scraper takes no page in which a sample stands twice.
            let mut seen = BTreeSet::new();
            for (labels, value) in samples(status, usage) {
                if !seen.insert(labels.clone()) {
                    continue;
                }
                line(&mut self.text, name, told, &labels, value);
            }
        }
    }

    /// A family with one sample an instance, or none.
    fn single<V: Display>(
        &mut self,
        head: (&str, &str, &str),
        value: impl Fn(&InstanceStatus, &Usage) -> Option<V>,
    ) {
        self.family(head, |status, usage| {
            let value = value(status, usage);
            value.map(|value| (Vec::new(), value)).into_iter().collect()
        });
    }

    fn instances(&mut self) {
        let (name, told) = ("seed_up", self.told);
        let _ = writeln!(
            self.text,
            "# HELP {name} Whether the instance's shim answers.\n# TYPE {name} gauge"
        );
        for one in told {
            line(
                &mut self.text,
                name,
                one,
                &[],
                u8::from(one.answer.is_some()),
            );
        }
        self.family(
            ("seed_instance_info", "gauge", "What the instance is."),
            |status, _| {
                let mut labels = vec![
                    ("accel", status.accel.clone()),
                    ("agent_version", status.agent_version.clone()),
                    ("boot_id", status.boot_id.clone()),
                ];
                if let Some(pod) = status.pod.as_ref() {
                    labels.extend([
                        // `namespace` is containerd's.
                        ("pod_namespace", pod.namespace.clone()),
                        ("pod", pod.name.clone()),
                        ("container", pod.container.clone()),
                        ("kept_as", status.kept_as.clone()),
                    ]);
                }
                vec![(labels, 1)]
            },
        );
        self.family(
            (
                "seed_instance_state",
                "gauge",
                "1 for the state that the instance is in, 0 for the others.",
            ),
            |status, _| {
                let now = status.state.enum_value_or_default();
                let states = [
                    State::STATE_CREATED,
                    State::STATE_STARTING,
                    State::STATE_RUNNING,
                    State::STATE_PAUSED,
                    State::STATE_STOPPING,
                    State::STATE_STOPPED,
                ];
                let sample = |state| {
                    let labels = vec![("state", words::state(state).to_owned())];
                    (labels, u8::from(state == now))
                };
                states.map(sample).into()
            },
        );
        self.family(
            (
                "seed_instance_boot_seconds",
                "gauge",
                "Time from Create to each stage of the boot.",
            ),
            |status, _| {
                let sample = |reached: &seed_protocol::seed::management::StageTime| {
                    let stage = words::stage(reached.stage.enum_value_or_default());
                    let at = seconds(reached.since_create_ms.saturating_mul(1_000_000));
                    (vec![("stage", stage.to_owned())], at)
                };
                status.stages.iter().map(sample).collect()
            },
        );
        self.single(
            (
                "seed_instance_vcpus",
                "gauge",
                "Processors of the instance.",
            ),
            |status, _| Some(status.vcpus),
        );
        self.single(
            (
                "seed_instance_memory_bytes",
                "gauge",
                "Memory of the instance.",
            ),
            |status, _| Some(u64::from(status.memory_mib) << 20),
        );
        self.single(
            (
                "seed_instance_failed_units",
                "gauge",
                "Units that systemd calls failed.",
            ),
            |status, _| Some(status.failed_units.len()),
        );
        self.single(
            (
                "seed_instance_problems",
                "gauge",
                "Problems that were met on the way.",
            ),
            |status, _| Some(status.problems.len()),
        );
        self.single(
            (
                "seed_instance_exit_status",
                "gauge",
                "Exit status of an instance that has ended.",
            ),
            |status, _| status.exit.as_ref().map(|exit| exit.status),
        );
    }

    fn guests(&mut self) {
        self.single(
            (
                "seed_guest_cpu_seconds_total",
                "counter",
                "CPU time that the guest counts.",
            ),
            |_, usage| usage.guest.as_ref().map(|guest| seconds(guest.cpu_ns)),
        );
        self.single(
            (
                "seed_guest_memory_bytes",
                "gauge",
                "Memory of the guest that is not free.",
            ),
            |_, usage| usage.guest.as_ref().map(|guest| guest.memory_bytes),
        );
        self.single(
            (
                "seed_guest_memory_working_set_bytes",
                "gauge",
                "The same without what can be given back at once.",
            ),
            |_, usage| {
                let guest = usage.guest.as_ref()?;
                Some(guest.memory_bytes.saturating_sub(guest.inactive_file_bytes))
            },
        );
        self.single(
            (
                "seed_guest_memory_total_bytes",
                "gauge",
                "Memory that the guest's kernel has.",
            ),
            |_, usage| usage.guest.as_ref().map(|guest| guest.memory_total_bytes),
        );
        self.single(
            ("seed_guest_tasks", "gauge", "Tasks of the guest."),
            |_, usage| usage.guest.as_ref().map(|guest| guest.tasks),
        );
        self.links(
            "seed_guest_network_receive_bytes_total",
            "came over",
            |link| link.received_bytes,
        );
        self.links(
            "seed_guest_network_transmit_bytes_total",
            "went over",
            |link| link.sent_bytes,
        );
        self.disks("seed_guest_disk_read_bytes_total", "read from", |disk| {
            disk.read_bytes
        });
        self.disks(
            "seed_guest_disk_written_bytes_total",
            "written to",
            |disk| disk.written_bytes,
        );
    }

    fn links(
        &mut self,
        name: &str,
        how: &str,
        value: fn(&seed_protocol::seed::management::guest_usage::Link) -> u64,
    ) {
        let help = format!("Bytes that {how} a link of the guest.");
        self.family((name, "counter", &help), |_, usage| {
            let links = usage.guest.iter().flat_map(|guest| &guest.links);
            links
                .map(|link| (vec![("link", link.name.clone())], value(link)))
                .collect()
        });
    }

    fn disks(
        &mut self,
        name: &str,
        how: &str,
        value: fn(&seed_protocol::seed::management::guest_usage::Disk) -> u64,
    ) {
        let help = format!("Bytes {how} a disk of the guest.");
        self.family((name, "counter", &help), |_, usage| {
            let disks = usage.guest.iter().flat_map(|guest| &guest.disks);
            disks
                .map(|disk| {
                    let device = format!("{}:{}", disk.major, disk.minor);
                    (vec![("device", device)], value(disk))
                })
                .collect()
        });
    }

    fn host(&mut self) {
        self.processes(
            (
                "seed_process_cpu_seconds_total",
                "counter",
                "CPU time of a process on the host.",
            ),
            |process| seconds(process.cpu_ns),
        );
        self.processes(
            (
                "seed_process_memory_bytes",
                "gauge",
                "Proportional share of memory of a process on the host.",
            ),
            |process| process.memory_bytes.to_string(),
        );
        self.single(
            (
                "seed_overhead_memory_bytes",
                "gauge",
                "Memory of all processes less the guest's own: what the instance costs besides.",
            ),
            |_, usage| (!usage.processes.is_empty()).then(|| overhead(usage)),
        );
    }

    fn processes(&mut self, head: (&str, &str, &str), value: fn(&ProcessUsage) -> String) {
        self.family(head, |_, usage| {
            let sample =
                |process: &ProcessUsage| (vec![("process", process.name.clone())], value(process));
            usage.processes.iter().map(sample).collect()
        });
    }

    fn logs(&mut self) {
        self.single(
            (
                "seed_log_entries_total",
                "counter",
                "Journal entries written to the log since the start.",
            ),
            |status, _| Some(status.log_entries),
        );
        self.single(
            (
                "seed_log_lag_entries",
                "gauge",
                "Entries that the guest is ahead.",
            ),
            |status, _| Some(status.log_lag),
        );
        self.single(
            (
                "seed_log_missing_total",
                "counter",
                "Entries that the guest had and that could not be had.",
            ),
            |status, _| Some(status.log_missing),
        );
        self.single(
            (
                "seed_log_dropped_total",
                "counter",
                "Messages that the guest's rate limit dropped.",
            ),
            |status, _| Some(status.log_dropped),
        );
    }
}

/// Host memory that is not the guest's own.
pub fn overhead(usage: &Usage) -> u64 {
    usage
        .processes
        .iter()
        .map(|process| {
            process
                .memory_bytes
                .saturating_sub(process.guest_memory_bytes)
        })
        .sum()
}

/// Nanoseconds as seconds with a point.
fn seconds(ns: u64) -> String {
    format!("{}.{:03}", ns / 1_000_000_000, ns / 1_000_000 % 1000)
}

fn line(
    text: &mut String,
    name: &str,
    told: &Told,
    more: &[(&'static str, String)],
    value: impl Display,
) {
    let _ = write!(
        text,
        "{name}{{namespace=\"{}\",instance=\"{}\"",
        escaped(&told.namespace),
        escaped(&told.id)
    );
    for (key, label) in more {
        let _ = write!(text, ",{key}=\"{}\"", escaped(label));
    }
    let _ = writeln!(text, "}} {value}");
}

fn escaped(label: &str) -> String {
    label
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use seed_protocol::seed::{
        management::{GuestUsage, guest_usage},
        v1::FailedUnit,
    };

    use super::*;

    fn told(id: &str) -> Told {
        let usage = Usage {
            guest: Some(GuestUsage {
                cpu_ns: 1_250_000_000,
                memory_bytes: 100,
                inactive_file_bytes: 30,
                // A guest may say what it likes.
                links: [7, 9]
                    .map(|received_bytes| guest_usage::Link {
                        name: "e\"th\n0".into(),
                        received_bytes,
                        ..Default::default()
                    })
                    .into(),
                ..Default::default()
            })
            .into(),
            processes: vec![ProcessUsage {
                name: "qemu".into(),
                memory_bytes: 50,
                guest_memory_bytes: 20,
                ..Default::default()
            }],
            ..Default::default()
        };
        let status = InstanceStatus {
            state: State::STATE_RUNNING.into(),
            failed_units: vec![FailedUnit::default()],
            pod: (id == "b").then(words::sample_pod).into(),
            kept_as: "prod_web-0_app".into(),
            ..Default::default()
        };
        Told {
            namespace: "default".into(),
            id: id.into(),
            answer: Some((status, usage)),
        }
    }

    #[test]
    fn each_family_has_one_head_and_a_line_an_instance() {
        let mut all = vec![told("a"), told("b")];
        all.push(Told {
            namespace: "default".into(),
            id: "dead".into(),
            answer: None,
        });
        let text = text(&all);
        for line in [
            "seed_up{namespace=\"default\",instance=\"a\"} 1",
            "seed_up{namespace=\"default\",instance=\"dead\"} 0",
            "seed_instance_info{namespace=\"default\",instance=\"a\",accel=\"\",agent_version=\"\",boot_id=\"\"} 1",
            "seed_instance_info{namespace=\"default\",instance=\"b\",accel=\"\",agent_version=\"\",boot_id=\"\",pod_namespace=\"prod\",pod=\"web-0\",container=\"app\",kept_as=\"prod_web-0_app\"} 1",
            "seed_instance_state{namespace=\"default\",instance=\"b\",state=\"running\"} 1",
            "seed_instance_state{namespace=\"default\",instance=\"b\",state=\"paused\"} 0",
            "seed_instance_failed_units{namespace=\"default\",instance=\"a\"} 1",
            "seed_guest_cpu_seconds_total{namespace=\"default\",instance=\"a\"} 1.250",
            "seed_guest_memory_working_set_bytes{namespace=\"default\",instance=\"b\"} 70",
            "seed_guest_network_receive_bytes_total{namespace=\"default\",instance=\"a\",link=\"e\\\"th\\n0\"} 7",
            "seed_overhead_memory_bytes{namespace=\"default\",instance=\"a\"} 30",
        ] {
            assert_eq!(
                text.lines().filter(|have| *have == line).count(),
                1,
                "{line}\n{text}"
            );
        }
        assert!(!text.contains("} 9\n"), "{text}");
        let mut heads: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with("# TYPE"))
            .collect();
        let count = heads.len();
        heads.sort();
        heads.dedup();
        assert_eq!(heads.len(), count);
        // What has no value has no line: no instance has ended.
        assert!(!text.contains("seed_instance_exit_status{"));
    }
}
