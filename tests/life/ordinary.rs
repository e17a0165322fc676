//! Instances of an ordinary user: the commands find their namespace by themselves, nothing of an instance is root's,
//! and what such a user lacks is named.
//!
//! The user is in tables that only these commands see (passwd(5), subuid(5)): the machine gets no new one.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use seed_tests::{Runner, lab, limit, stub};
use serde_json::Value;

use super::bench::{Bench, refused, said};

const NAME: &str = "life: an ordinary user's instance, and what the user lacks";
/// A number that no distribution gives away.
const USER: u32 = 61_717;
/// Its other ids.
const RANGE: &str = "seed-life:1879048192:65536\n";
/// Shows the command after it the tables in the folder `$0`.
const TABLES: &str = r#"mount --bind "$0/passwd" /etc/passwd
mount --bind "$0/subid" /etc/subuid
mount --bind "$0/subid" /etc/subgid
exec "$@""#;

pub(crate) fn run(runner: &mut Runner) {
    if !runner.wants(&[NAME]) {
        runner.case(NAME, || Ok(()));
        return;
    }
    let made = User::make().and_then(|user| Ok((user.has_namespaces()?, user)));
    match made {
        Ok((Some(reason), _)) => runner.skip(NAME, &reason),
        Ok((None, user)) => {
            runner.always(NAME, || lives(&user).and_then(|()| lacks(&user)));
            // A case that failed may have left it in any state.
            let _ = user.seed(&["stop", "u", "--kill"], None);
        }
        Err(error) => {
            runner.always(NAME, || Err(error));
        }
    }
}

/// A lab that is a user's.
#[derive(Debug)]
struct User {
    bench: Bench,
    place: PathBuf,
}

impl User {
    fn make() -> Result<Self> {
        let bench = Bench::with_copies()?;
        let place = bench.lab.scratch("");
        let users = fs::read_to_string("/etc/passwd")?;
        let own = format!("{users}\nseed-life:x:{USER}:{USER}::/:/bin/sh\n");
        fs::write(place.join("passwd"), own)?;
        let user = Self { bench, place };
        user.has_ids(RANGE)?;
        let chown = Command::new("chown")
            .args(["--recursive", "--no-dereference"])
            .arg(format!("{USER}:{USER}"))
            .arg(&user.place)
            .status()?;
        ensure!(chown.success(), "chown: {chown}");
        Ok(user)
    }

    /// Rewrites its lines of subuid(5) and subgid(5).
    fn has_ids(&self, lines: &str) -> Result<()> {
        fs::write(self.place.join("subid"), lines).context("write the table of ids")
    }

    /// Why it can have no namespaces here, if it cannot.
    fn has_namespaces(&self) -> Result<Option<String>> {
        let probe = ["unshare", "--user", "--map-root-user", "--map-auto", "true"];
        let output = self.runs(&probe)?;
        let reason = format!("no namespace of an ordinary user: {}", said(&output).trim());
        Ok((!output.status.success()).then_some(reason))
    }

    /// Runs a program as this user.
    fn runs<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<Output> {
        let id = USER.to_string();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--", "sh", "-ec", TABLES]);
        command.arg(&self.place).args(["setpriv", "--clear-groups"]);
        command.args(["--reuid", &id, "--regid", &id, "--"]);
        command.args(words);
        lab::output(command, limit::COMMAND)
    }

    /// `seed ARGS`, with another `PATH` if one is given.
    fn seed(&self, args: &[&str], path: Option<&Path>) -> Result<Output> {
        let command = self.bench.command(args, &[]);
        let assign = |name: &OsStr, value: &OsStr| {
            let mut word = name.to_owned();
            word.push("=");
            word.push(value);
            word
        };
        let mut words = vec![
            OsString::from("env"),
            assign("HOME".as_ref(), self.place.as_ref()),
        ];
        let variables = command.get_envs();
        words.extend(variables.filter_map(|(name, value)| Some(assign(name, value?))));
        words.extend(path.map(|path| assign("PATH".as_ref(), path.as_ref())));
        words.push(command.get_program().to_owned());
        words.extend(command.get_args().map(OsStr::to_owned));
        self.runs(&words)
    }

    /// The same, which must succeed; what it said.
    fn seed_ok(&self, args: &[&str]) -> Result<String> {
        let output = self.seed(args, None)?;
        ensure!(output.status.success(), "seed {args:?}: {}", said(&output));
        Ok(said(&output))
    }

    fn root(&self) -> String {
        self.place.join("root").to_string_lossy().into_owned()
    }
}

/// Run, logs, exec, restart, stop; nothing is left.
fn lives(user: &User) -> Result<()> {
    user.seed_ok(&["run", &user.root(), "--name", "u"])?;
    let status = user.seed(&["status", "u", "--json"], None)?;
    let status: Value = serde_json::from_slice(&status.stdout).context(said(&status))?;
    let parts = status["processes"].as_array().context("no processes")?;
    ensure!(parts.len() == 4, "the programs are {parts:?}");
    for part in parts {
        let owner = fs::metadata(format!("/proc/{}", part["pid"]))?.uid();
        ensure!(owner == USER, "{part} is of uid {owner}");
    }
    // It runs before all that it has logged is there.
    limit::until("the guest's line in the log", limit::LOG_LINE, || {
        let log = said(&user.seed(&["logs", "u"], None)?);
        Ok(log.contains("stub guest is up").then_some(()))
    })?;
    user.seed_ok(&["exec", "u", "--", "cat"])?;
    user.seed_ok(&["restart", "u"])?;
    user.seed_ok(&["stop", "u"])?;
    user.bench.nothing_left()?;
    // What is kept is the user's.
    user.seed_ok(&["rm", "u", "--yes"])?;
    Ok(())
}

/// One sentence for each thing that such a user lacks, and nothing is begun.
fn lacks(user: &User) -> Result<()> {
    let folder = user.place.join("few");
    fs::create_dir(&folder)?;
    // Never run: what is missing is looked for before.
    let unshare = folder.join("unshare");
    fs::write(&unshare, "")?;
    fs::set_permissions(&unshare, Permissions::from_mode(0o755))?;
    let foreign = user.place.join("foreign");
    stub::root(&foreign)?;
    let foreign = foreign.to_string_lossy();
    let own = user.root();
    let refusal = |root: &str, path: Option<&Path>, sentence: &str| -> Result<()> {
        let output = user.seed(&["run", root, "--name", "u"], path)?;
        refused(&output, sentence)
    };
    refusal(&foreign, None, "belongs to uid 0, not to you")?;
    refusal(&own, Some(&folder), "no newuidmap in PATH")?;
    user.has_ids("seed-life:1879048192:1000\n")?;
    let sentence = "seed-life has no range of 65536 ids in /etc/subuid";
    refusal(&own, None, sentence)?;
    refused(&user.seed(&["doctor"], None)?, sentence)?;
    user.bench.nothing_left()
}
