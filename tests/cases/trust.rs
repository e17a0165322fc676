//! Who may talk to the agent: its host, and nobody else that reaches its vsock port. The guest's own processes do,
//! over the loopback (CID 1, vsock(7)).

use anyhow::{Result, ensure};
use seed_tests::{Instance, limit};

/// Asks the agent's port for its health, in ttrpc's frame: length, stream, type of message, flags. Every frame gets an answer from a
/// server that listens to it, if only a refusal.
const ASK: &str = r#"
$SIG{ALRM} = sub { print "silence\n"; exit };
alarm 30;
socket(S, 40, 1, 0) or die "socket: $!";
connect(S, pack("S x2 L L x4", 40, 1024, 1)) or die "connect: $!";
$body = "\x0a\x0bgrpc.Health\x12\x05Check";
$SIG{PIPE} = "IGNORE";
syswrite(S, pack("N N C C", length $body, 1, 1, 0) . $body);
print sysread(S, $answer, 10) ? "answered\n" : "closed\n";
"#;

/// A process of the guest, root's at that, is turned away at the real listener, and the log says so.
pub(crate) fn the_guest_may_not_talk_to_its_agent(instance: &Instance<'_>) -> Result<()> {
    instance.sh("modprobe vsock_loopback")?;
    let told = "journalctl --sync; journalctl -qb -t seed-agent -o cat | grep -c 'connection refused: not from the host' || true";
    let before: u32 = instance.sh(told)?.parse()?;
    let said = instance.sh(&format!("perl -e '{ASK}'"))?;
    ensure!(said == "closed", "the agent: {said}");
    let after = limit::until("the refusal in the guest's log", limit::LOG_LINE, || {
        let after: u32 = instance.sh(told)?.parse()?;
        Ok((after > before).then_some(after))
    })?;
    ensure!(
        after == before + 1,
        "{before} refusals in the log, then {after}"
    );
    Ok(())
}
