//! The help texts.

const MAIN: &str = "\
seed: run one NixOS system in a microVM of its own

Usage: seed COMMAND [--namespace NS] [--json]

  run ROOT         start an instance from a root file system
  ps               list instances
  status [NAME]    state, boot stages with their times, what failed
  logs [NAME]      the instance's journal; -f follows it
  exec [NAME] -- COMMAND...
                   run a command in it
  keys [NAME]      the recipient of its age identity, to encrypt secrets to
  restart [NAME]   stop it and start it as it was started
  stop [NAME]      power it off; volumes, TPM state and logs stay
  rm NAME --yes    delete volumes, TPM state and logs of a stopped instance
  doctor           what this machine has and lacks

NAME may be left out where there is only one instance.
'seed COMMAND --help' tells more about a command.
";

const RUN: &str = "\
Usage: seed run ROOT [--name NAME] [options]

Starts an instance from the root file system in the folder ROOT, which is only read:
what the instance writes goes to a layer of its own until 'seed stop', and to its volumes.

  --name NAME           its name; default: the closure's own
  --toplevel PATH       the system inside ROOT (boot.json, init); default: /seed-system
  --size SIZE           xs (1 vCPU, 512 MiB), s (1, 1 GiB), m (2, 2 GiB), l (4, 4 GiB),
                        xl (8, 8 GiB); default: the closure's own, else xs
  -e, --env NAME=VALUE  environment of the instance (/run/seed/env); may be repeated
  --env-file FILE       the same from lines NAME=VALUE; '#' begins a comment line
  --volume NAME=SIZE[:MOUNTPOINT][,user=U][,group=G][,mode=M]
                        a volume, made on first use; overrides the closure's of that name.
                        A path in place of SIZE names an image file or block device
  --accel ACCEL         auto, kvm or tcg
  --network NET         none, or user: outgoing connections only
  --kernel-param PARAM  one more kernel parameter; may be repeated
  --wait STAGE          return at running (or degraded; default), provisioned, or none
  --json                print the status as JSON when it is up
";

const PS: &str = "\
Usage: seed ps [-A|--all-namespaces] [--json]

Lists the instances of the namespace, or of all.
";

const STATUS: &str = "\
Usage: seed status [NAME] [--json]

State, stages of the boot with their times, failed units, problems, volumes, processes.
";

const LOGS: &str = "\
Usage: seed logs [NAME] [options]

The instance's journal, the last 100 entries of it. Works after the instance's end too.
What is missing is told between the lines: deleted before it was read, dropped by a rate limit.

  -n, --lines N         so many entries, or 'all' (the default with -S, -U and -b)
  -f, --follow          go on with what comes, also after a restart of the instance
  -S, --since TIME      not before: '2025-11-21 23:01', 23:01, -1h, '5min ago', yesterday...
  -U, --until TIME      not after
  -b, --boot [ID|N]     of one boot: the last, or -1 the one before it, 1 the first
  -g, --grep PATTERN    whose message matches this regular expression
  -u, --unit UNIT       of this unit only; may be repeated
  -p, --priority LEVEL  this important or more: emerg, alert, crit, err, warning,
                        notice, info, debug, or 0 to 7
  --json                one object a line, as 'journalctl -o json' prints it
  --export              as 'journalctl -o export' prints it
";

const KEYS: &str = "\
Usage: seed keys [NAME] [--tag] [--json]

The recipient of the identity that the instance's TPM holds: encrypt to it with age or sops.

  --tag                 its other spelling, age1tag1..., for which age 1.3 and rage need no plugin
";

const RESTART: &str = "\
Usage: seed restart [NAME] [--timeout SECONDS] [--wait STAGE] [--json]

Stops the instance and starts it as it was started, with what it had written. Also after its end,
or when its virtual machine or its shim was killed.

  --timeout SECONDS     how long the orderly poweroff may take; default 90
  --wait STAGE          as in 'seed run'
";

const EXEC: &str = "\
Usage: seed exec [NAME] [options] -- COMMAND [ARGUMENT...]

Runs a command in the instance and passes on its exit status: 128 and the signal's number after
a signal, 127 when there is no such command, 125 when it could not be run at all.

  -i                    pass on standard input
  -t                    with a terminal (and standard input)
  -e, --env NAME=VALUE  its environment; may be repeated
  --cwd PATH            its working directory; default /
";

const STOP: &str = "\
Usage: seed stop [NAME] [--kill] [--timeout SECONDS]

Powers the instance off, in order, and removes everything of it but volumes, TPM state and logs.
What it wrote outside its volumes is gone. Cleans up after a crash as well.

  --kill                end it at once, as if the power failed
  --timeout SECONDS     how long the orderly poweroff may take before that; default 90
";

const RM: &str = "\
Usage: seed rm NAME --yes

Deletes volumes, TPM state and logs of a stopped instance. The TPM state is its identity:
secrets encrypted to it can never be read again.

  -y, --yes             really
";

const DOCTOR: &str = "\
Usage: seed doctor [--json]

Looks for everything that an instance needs on this machine. Exit status 1 when something lacks
without which none can run.
";

/// The help of a command; of the program for an empty name.
pub(super) fn of(command: &str) -> String {
    known(command).unwrap_or_else(|| MAIN.into())
}

/// The same, `None` for a command that there is not.
pub(super) fn known(command: &str) -> Option<String> {
    let text = match command {
        "" => MAIN,
        "run" => RUN,
        "ps" => PS,
        "status" => STATUS,
        "logs" => LOGS,
        "keys" => KEYS,
        "restart" => RESTART,
        "exec" => EXEC,
        "stop" => STOP,
        "rm" => RM,
        "doctor" => DOCTOR,
        _ => return None,
    };
    Some(text.into())
}
