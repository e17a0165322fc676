//! The seed shell in front of a real instance, as its owner meets it: plant, look, follow, encrypt, restart. The
//! server runs as a user of its own that has the instances' group and nothing else, and every question is asked with
//! the OpenSSH client.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::fs::{PermissionsExt, chown},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use seed_tests::{Lab, Runner, lab, limit};

use crate::identity::{OPENED, SECRET, encrypt};

/// `nobody` and `nogroup` on Debian: no rights of their own.
const USER: u32 = 65534;

/// For the skip list.
pub(crate) const NAMES: [&str; 1] = ["shell: an owner plants, follows, encrypts and restarts"];

/// Boots an instance of its own, twice.
pub(crate) fn run(runner: &mut Runner, lab: &Lab) {
    runner.case(NAMES[0], || {
        lab.write_config(&format!("group = \"{USER}\"\nmanagement_exec = true"))?;
        let result = an_owner(lab);
        lab.write_config("")?;
        result
    });
}

fn an_owner(lab: &Lab) -> Result<()> {
    let shell = Shell::start(lab)?;
    let namespace = shell.plant()?;
    let instance = Own {
        lab,
        namespace: &namespace,
    };
    let guest = lab.guest().to_string_lossy().into_owned();
    let started = instance.seed(&["run", &guest, "--name", "web"])?;
    ensure!(started.status.success(), "seed run: {started:?}");

    let status = shell.answered("status")?;
    let line = status.lines().find(|line| line.contains(" web "));
    ensure!(
        line.is_some_and(|line| line.contains("running")),
        "{status}"
    );
    let screen = shell.answered(&format!("status {namespace}/web --json"))?;
    let screen: serde_json::Value = serde_json::from_str(&screen)?;
    ensure!(
        screen["memory_used_bytes"].as_u64() > Some(1 << 20),
        "{screen}"
    );

    // A line of the guest arrives while it is followed.
    let mut follower = shell.client();
    let mut child = follower
        .args(["127.0.0.1", "logs web -f --lines 1"])
        .stdout(Stdio::piped())
        .spawn()?;
    let (seen, lines) = mpsc::channel();
    let stdout = child.stdout.take().context("no stdout")?;
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if seen.send(line).is_err() {
                break;
            }
        }
    });
    let arrived = (|| {
        lines
            .recv_timeout(limit::COMMAND)
            .context("no first line")?;
        instance.sh("echo followed-to-the-end | systemd-cat -t owner")?;
        loop {
            let line = lines.recv_timeout(limit::COMMAND).context("no such line")?;
            if line.ends_with("followed-to-the-end") {
                return Ok(());
            }
        }
    })();
    child.kill()?;
    child.wait()?;
    arrived.map_err(|error: anyhow::Error| error.context("logs -f"))?;

    commands(&shell, &instance).context("exec")?;

    let recipient = shell.ask("keys web")?;
    let recipient = recipient.trim_end();
    ensure!(recipient.starts_with("age1tpm1q"), "keys: {recipient:?}");
    let secret = "told to the shell by nobody";
    let armored = String::from_utf8(encrypt(lab, recipient, secret.as_bytes())?)?;
    instance.sh(&format!(
        "mkdir -p $(dirname {SECRET}) && cat > {SECRET} <<'END'\n{armored}END\nsync"
    ))?;
    let before = instance.sh("cat /proc/sys/kernel/random/boot_id")?;

    let restarted = shell.ask("restart web")?;
    ensure!(restarted.starts_with("web is "), "restart: {restarted}");
    let after = instance.sh("cat /proc/sys/kernel/random/boot_id")?;
    ensure!(before != after, "the restart did not boot anew");
    let opened = instance.sh(&format!("cat {OPENED}"))?;
    ensure!(opened == secret, "the guest opened {opened:?}");
    let again = shell.ask("keys web")?;
    ensure!(again.trim_end() == recipient, "another key: {again}");
    // All that without a way to what is the instance's own.
    for folder in ["tpm", "volumes"] {
        let folder = lab.state_dir().join(folder).join(&namespace).join("web");
        let mode = fs::metadata(&folder)?.permissions().mode() & 0o777;
        ensure!(mode == 0o700, "{} is {mode:o}", folder.display());
    }
    Ok(())
}

/// `exec`: streams and status, a terminal, and a command whose client is killed.
fn commands(shell: &Shell, instance: &Own) -> Result<()> {
    let line = "exec web -- sh -c 'id -u; cat; echo aside >&2; exit 7'";
    let mut ssh = shell.client();
    ssh.args(["127.0.0.1", line]).stdin(Stdio::piped());
    ssh.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = ssh.spawn()?;
    let mut input = child.stdin.take().context("no stdin")?;
    let text = "given to the guest\n".repeat(20_000);
    let sent = text.clone();
    let sending = thread::spawn(move || input.write_all(sent.as_bytes()));
    let output = child.wait_with_output()?;
    ensure!(
        sending.join().is_ok_and(|sent| sent.is_ok()),
        "not all was taken"
    );
    ensure!(
        output.status.code() == Some(7)
            && output.stderr == b"aside\n"
            && output.stdout == format!("0\n{text}").as_bytes(),
        "{}, {} bytes, {}",
        output.status,
        output.stdout.len(),
        String::from_utf8_lossy(&output.stderr)
    );

    let options = shell.options().join(" ");
    let line = format!(
        "stty cols 91 rows 33; ssh -tt {options} 127.0.0.1 exec web -- sh -c \"'tty; stty size; echo \\$TERM'\""
    );
    let mut script = Command::new("script");
    script
        .args(["-qec", &line, "/dev/null"])
        .env("TERM", "screen")
        .stdin(Stdio::null());
    let output = lab::output(script, limit::COMMAND)?;
    let text = String::from_utf8_lossy(&output.stdout);
    for word in ["/dev/pts/", "33 91", "screen"] {
        ensure!(text.contains(word), "no {word:?} in {text:?}");
    }

    let line = "exec web -- sh -c 'echo begun; exec sleep 4242'";
    let mut ssh = shell.client();
    ssh.args(["127.0.0.1", line]).stdout(Stdio::piped());
    let mut child = ssh.spawn()?;
    let mut word = [0; 5];
    let begun = child
        .stdout
        .as_mut()
        .context("no stdout")?
        .read_exact(&mut word);
    child.kill()?;
    child.wait()?;
    begun?;
    let gone = "for i in $(seq 600); do pgrep -fx 'sleep 4242' >/dev/null || exit 0; sleep 0.1; done; exit 1";
    instance
        .sh(gone)
        .context("the command goes on without its client")?;
    Ok(())
}

/// An instance in the repository's namespace; gone when it is dropped.
struct Own<'lab> {
    lab: &'lab Lab,
    namespace: &'lab str,
}

impl Own<'_> {
    fn seed(&self, args: &[&str]) -> Result<Output> {
        let args = [&["--namespace", self.namespace], args].concat();
        self.lab.seed(&args, limit::BOOT)
    }

    fn sh(&self, line: &str) -> Result<String> {
        let output = self.seed(&["exec", "web", "--", "/bin/sh", "-c", line])?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "`{line}`: {} {error}",
            output.status
        );
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.trim_end_matches('\n').to_owned())
    }
}

impl Drop for Own<'_> {
    fn drop(&mut self) {
        // Best effort: a case that failed may have left it in any state.
        for args in [&["stop", "web", "--kill"][..], &["rm", "web", "--yes"]] {
            let _ = self.seed(args);
        }
    }
}

/// The server, and a key that may connect.
struct Shell<'lab> {
    lab: &'lab Lab,
    dir: PathBuf,
    server: Child,
    port: u16,
}

impl<'lab> Shell<'lab> {
    fn start(lab: &'lab Lab) -> Result<Self> {
        let dir = lab.scratch("shell");
        let state = dir.join("state");
        fs::create_dir_all(&state)?;
        chown(&state, Some(USER), Some(USER))?;
        // The way to the state, the configuration and the sockets.
        for folder in [lab.scratch(""), dir.clone()] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o711))?;
        }
        let config = dir.join("shell.toml");
        let text = format!(
            "listen = ['127.0.0.1:0']\nstate_dir = {state:?}\nshim_config = {:?}\nexec = true\n",
            lab.config()
        );
        fs::write(&config, text)?;
        let program = lab.program("seed-shell");
        let mut command = Command::new("setpriv");
        let id = USER.to_string();
        command
            .args([
                "--reuid",
                &id,
                "--regid",
                &id,
                "--clear-groups",
                "--no-new-privs",
            ])
            .args(["--inh-caps=-all", "--bounding-set=-all"])
            .arg(program.get_program())
            .arg("--config")
            .arg(&config)
            .arg("serve")
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        let mut server = command.spawn().context("start seed-shell")?;
        let mut lines = BufReader::new(server.stderr.take().context("no stderr")?).lines();
        let first = lines.next().transpose()?.unwrap_or_default();
        let Some(port) = first.rsplit(':').next().and_then(|port| port.parse().ok()) else {
            // It has ended, or it says something else.
            let _ = server.kill();
            let _ = server.wait();
            bail!("seed-shell said {first:?}");
        };
        // Nobody reads the rest, but it must not stand still.
        thread::spawn(move || lines.for_each(drop));
        let shell = Self {
            lab,
            dir,
            server,
            port,
        };
        let mut keygen = Command::new("ssh-keygen");
        keygen
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(shell.dir.join("key"));
        ensure!(
            lab::output(keygen, limit::COMMAND)?.status.success(),
            "ssh-keygen failed"
        );
        Ok(shell)
    }

    fn options(&self) -> Vec<String> {
        let path = |name: &str| self.dir.join(name).display().to_string();
        [
            "BatchMode=yes".to_owned(),
            "IdentitiesOnly=yes".to_owned(),
            "IdentityAgent=none".to_owned(),
            "LogLevel=ERROR".to_owned(),
            "StrictHostKeyChecking=accept-new".to_owned(),
            format!("UserKnownHostsFile={}", path("known_hosts")),
            format!("IdentityFile={}", path("key")),
            format!("Port={}", self.port),
        ]
        .into_iter()
        .flat_map(|option| ["-o".to_owned(), option])
        .chain(["-F".to_owned(), "none".to_owned()])
        .collect()
    }

    fn client(&self) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args(self.options()).stdin(Stdio::null());
        ssh
    }

    /// `ssh host LINE`, which must succeed.
    fn ask(&self, line: &str) -> Result<String> {
        let mut ssh = self.client();
        ssh.arg("127.0.0.1").arg(line);
        let output = lab::output(ssh, limit::STOP + limit::BOOT)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "`{line}`: {} {error}",
            output.status
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// As [`Self::ask`], of instances that have answered: one that is late is shown without an answer.
    fn answered(&self, line: &str) -> Result<String> {
        limit::until("an answer of every instance", limit::COMMAND, || {
            let said = self.ask(line)?;
            Ok((!said.contains("no answer")).then_some(said))
        })
    }

    /// Plants a repository as its owner does; its namespace.
    fn plant(&self) -> Result<String> {
        let mut invite = self.lab.program("seed-shell");
        invite.arg("--config").arg(self.dir.join("shell.toml"));
        invite.arg("invite");
        let code = String::from_utf8(lab::output(invite, limit::COMMAND)?.stdout)?;
        let checkout = self.dir.join("my-app");
        fs::create_dir_all(&checkout)?;
        fs::copy(self.dir.join("key.pub"), checkout.join(".authorized_keys"))?;
        let mut plant = self.lab.program("seed-plant");
        plant
            .args([
                "--host",
                "127.0.0.1",
                "--instance",
                "web",
                "silo:my-app",
                code.trim(),
            ])
            .current_dir(&checkout)
            .env("SEED_SSH", format!("ssh {}", self.options().join(" ")));
        let output = lab::output(plant, limit::COMMAND)?;
        ensure!(output.status.success(), "seed-plant: {output:?}");
        let text = String::from_utf8(output.stdout)?;
        let namespace = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("namespace"));
        Ok(namespace.context("no namespace")?.trim().to_owned())
    }
}

impl Drop for Shell<'_> {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
