//! What names an instance, and what it keeps: its pod is told while it runs, and when it has ended `seed ps --kept` lists it
//! and `seed prune` takes its logs. The pod is that of [`crate::pod`]'s first case.

use anyhow::{Context, Result, ensure};
use seed_tests::Containerd;
use serde_json::{Value, json};

use crate::{
    bench::{self, in_order},
    pod::seed,
};

/// The name under which the pod's container keeps what stays.
pub(crate) const NAME: &str = "test_life_app";

/// Whoever looks at the instance sees which pod it is.
pub(crate) fn names_its_pod(containerd: &Containerd, id: &str) -> Result<()> {
    let told = bench::told(containerd, "k8s.io", id)?;
    let pod = json!({"namespace": "test", "name": "life", "container": "app"});
    ensure!(told["pod"] == pod && told["kept_as"] == NAME, "{told}");
    let list = seed(containerd, &["ps"])?;
    let of_pod = |line: &str| line.starts_with(id) && line.ends_with("test/life/app");
    ensure!(list.lines().any(of_pod), "{list}");
    for name in [id, NAME] {
        let status = seed(containerd, &["status", name])?;
        in_order(&status, &[id, "Pod test/life/app, kept as", NAME])?;
    }
    let figures = seed(containerd, &["metrics"])?;
    let labels =
        format!("pod_namespace=\"test\",pod=\"life\",container=\"app\",kept_as=\"{NAME}\"}} 1");
    let info = format!("seed_instance_info{{namespace=\"k8s.io\",instance=\"{id}\"");
    let of_id = |line: &str| line.starts_with(&info) && line.ends_with(&labels);
    ensure!(figures.lines().any(of_id), "{figures}");
    Ok(())
}

/// What is kept of one that has ended is told, and of that the logs go by their age alone.
pub(crate) fn logs_go_first(containerd: &Containerd) -> Result<()> {
    let before = of(containerd)?.context("nothing is kept")?;
    let has = |kept: &Value, key: &str| kept[key].as_u64().is_some_and(|bytes| bytes > 0);
    ensure!(
        has(&before, "tpm_bytes") && has(&before, "log_bytes"),
        "{before}"
    );
    seed(containerd, &["prune", "--older-than", "1", "--yes"])?;
    let same = of(containerd)?;
    ensure!(same.as_ref() == Some(&before), "{same:?}, not {before}");
    seed(containerd, &["prune", "--older-than", "0", "--yes"])?;
    let after = of(containerd)?.context("the identity went, too")?;
    ensure!(
        after["log_bytes"].is_null() && after["tpm_bytes"] == before["tpm_bytes"],
        "{after}"
    );
    Ok(())
}

/// What `seed ps --kept` says of it.
pub(crate) fn of(containerd: &Containerd) -> Result<Option<Value>> {
    let list = seed(containerd, &["ps", "--kept", "--json"])?;
    let list: Vec<Value> = serde_json::from_str(&list)?;
    Ok(list.into_iter().find(|one| one["name"] == NAME))
}
