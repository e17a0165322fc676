//! Every command, its words and its options, once: help, man pages, completions and the parser are made of this.
//! Nothing is decided or printed here.

pub(super) use super::option::{Kind, Opt, Value};
use super::option::{flag, with};

/// A command.
#[derive(Debug)]
pub(super) struct Info {
    pub(super) name: &'static str,
    /// Its words, as the first line of its help has them.
    pub(super) words: &'static str,
    /// What the first word may be.
    pub(super) word: Kind,
    /// After `--`, or after its name and a word, the words are of another command line.
    pub(super) passes_words_on: bool,
    /// For the list of commands.
    pub(super) summary: &'static str,
    /// Paragraphs, each on one line.
    pub(super) about: &'static [&'static str],
    pub(super) options: &'static [Opt],
}

impl Info {
    /// Whether what it prints can be had as data.
    pub(super) fn has_data(&self) -> bool {
        !WITHOUT_DATA.contains(&self.name)
    }

    /// Its own options and the global ones that it knows.
    pub(super) fn all_options(&self) -> impl Iterator<Item = &'static Opt> {
        let known = |option: &&Opt| option.long != JSON || self.has_data();
        self.options.iter().chain(GLOBAL).filter(known)
    }
}

const STAGES: Kind = Kind::OneOf(&["running", "provisioned", "none"]);
const PRIORITIES: Kind = Kind::OneOf(&[
    "emerg", "alert", "crit", "err", "warning", "notice", "info", "debug",
]);

/// The shells that completions are made for.
pub(super) const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

const JSON: &str = "json";

/// Commands that print a text of a form of its own.
const WITHOUT_DATA: [&str; 3] = ["metrics", "completions", "man"];

/// Options of every command, but for `--json` of those [`WITHOUT_DATA`].
pub(super) const GLOBAL: &[Opt] = &[
    with(
        "",
        "namespace",
        ("NS", Kind::Text),
        "the containerd namespace; default: default",
    ),
    flag("", JSON, "print data, one document a line; errors too"),
    flag("h", "help", "print the command's help"),
];

/// Options of the program alone.
pub(super) const PROGRAM: &[Opt] = &[flag("V", "version", "print the version")];

/// The commands, in the order in which they are listed.
pub(super) const COMMANDS: &[Info] = &[
    Info {
        name: "run",
        words: "ROOT",
        word: Kind::Folder,
        passes_words_on: false,
        summary: "start an instance from a root file system",
        about: &[
            "Starts an instance from the root file system in the folder ROOT, which is only read: what the instance writes goes to a layer of its own until 'seed stop', and to its volumes.",
        ],
        options: &[
            with(
                "",
                "name",
                ("NAME", Kind::Text),
                "its name; default: the closure's own",
            ),
            with(
                "",
                "toplevel",
                ("PATH", Kind::Text),
                "the system inside ROOT (boot.json, init); default: /seed-system",
            ),
            with(
                "",
                "size",
                ("SIZE", Kind::OneOf(&["xs", "s", "m", "l", "xl"])),
                "xs (1 vCPU, 512 MiB), s (1, 1 GiB), m (2, 2 GiB), l (4, 4 GiB), xl (8, 8 GiB); default: the closure's own, else xs",
            ),
            with(
                "e",
                "env",
                ("NAME=VALUE", Kind::Text),
                "environment of the instance (/run/seed/env); may be repeated",
            ),
            with(
                "",
                "env-file",
                ("FILE", Kind::File),
                "the same from lines NAME=VALUE; '#' begins a comment line",
            ),
            with(
                "",
                "volume",
                (
                    "NAME=SIZE[:MOUNTPOINT][,user=U][,group=G][,mode=M]",
                    Kind::Text,
                ),
                "a volume, made on first use; overrides the closure's of that name. A path in place of SIZE names an image file or block device",
            ),
            with(
                "",
                "accel",
                ("ACCEL", Kind::OneOf(&["auto", "kvm", "tcg"])),
                "auto, kvm or tcg",
            ),
            with(
                "",
                "network",
                ("NET", Kind::OneOf(&["none", "user"])),
                "none, or user: outgoing connections only, or the path of a network namespace, whose links and addresses the instance takes over",
            ),
            with(
                "p",
                "publish",
                ("[ADDRESS:]PORT:GUESTPORT[/udp]", Kind::Text),
                "a port of the host that leads into the instance, and --network user; default address 127.0.0.1; may be repeated",
            ),
            with(
                "",
                "kernel-param",
                ("PARAM", Kind::Text),
                "one more kernel parameter; may be repeated",
            ),
            with(
                "",
                "wait",
                ("STAGE", STAGES),
                "return at running (or degraded; default), provisioned, or none",
            ),
        ],
    },
    Info {
        name: "ps",
        words: "",
        word: Kind::Text,
        passes_words_on: false,
        summary: "list instances",
        about: &[
            "Lists the instances of the namespace, or of all; or what those that have ended keep.",
        ],
        options: &[
            flag("A", "all-namespaces", "of every namespace"),
            flag("q", "quiet", "names only"),
            flag(
                "",
                "kept",
                "TPM state, volumes and logs of those that have ended, and for how long nothing of it has changed",
            ),
        ],
    },
    Info {
        name: "status",
        words: "[NAME]",
        word: Kind::Instance,
        passes_words_on: false,
        summary: "state, boot stages with their times, what failed",
        about: &[
            "State, stages of the boot with their times, failed units, problems, volumes, processes.",
        ],
        options: &[with(
            "w",
            "watch",
            ("SECONDS", Kind::Text),
            "show it anew as often, until the instance is removed; with --json one line each time",
        )],
    },
    Info {
        name: "inspect",
        words: "[NAME]",
        word: Kind::Instance,
        passes_words_on: false,
        summary: "everything that is known of an instance, as JSON",
        about: &[
            "How the instance was started, where its files are, and its status while it runs. Values of the environment are not shown.",
        ],
        options: &[],
    },
    Info {
        name: "logs",
        words: "[NAME]",
        word: Kind::Instance,
        passes_words_on: false,
        summary: "the instance's journal; -f follows it",
        about: &[
            "The instance's journal, the last 100 entries of it. Works after the instance's end too. What is missing is told between the lines: deleted before it was read, dropped by a rate limit.",
            "With --json, one object a line, as 'journalctl -o json' prints it.",
        ],
        options: &[
            with(
                "n",
                "lines",
                ("N", Kind::Text),
                "so many entries, or 'all' (the default with -S, -U and -b)",
            ),
            flag(
                "f",
                "follow",
                "go on with what comes, also after a restart of the instance",
            ),
            with(
                "S",
                "since",
                ("TIME", Kind::Text),
                "not before: '2025-11-21 23:01', 23:01, -1h, '5min ago', yesterday...",
            ),
            with("U", "until", ("TIME", Kind::Text), "not after"),
            Opt {
                short: "b",
                long: "boot",
                value: Value::Optional("ID|N"),
                help: "of one boot: the last, or -1 the one before it, 1 the first",
            },
            with(
                "g",
                "grep",
                ("PATTERN", Kind::Text),
                "whose message matches this regular expression",
            ),
            with(
                "u",
                "unit",
                ("UNIT", Kind::Text),
                "of this unit only; may be repeated",
            ),
            with(
                "p",
                "priority",
                ("LEVEL", PRIORITIES),
                "this important or more: emerg, alert, crit, err, warning, notice, info, debug, or 0 to 7",
            ),
            with(
                "",
                "log-namespace",
                ("NAME", Kind::Text),
                "of the units in this journal namespace (LogNamespace=)",
            ),
            flag("", "export", "as 'journalctl -o export' prints it"),
        ],
    },
    Info {
        name: "exec",
        words: "[NAME] -- COMMAND [ARGUMENT...]",
        word: Kind::Instance,
        passes_words_on: true,
        summary: "run a command in it",
        about: &[
            "Runs a command in the instance and passes on its exit status: 128 and the signal's number after a signal, 127 when there is no such command, 125 when it could not be run at all.",
            "With --json each piece of its output is an object on a line, {\"stdout\": TEXT} or {\"stderr\": TEXT}, and the last is {\"status\": N}. A piece that is no UTF-8 is an array of its bytes.",
        ],
        options: &[
            flag("i", "stdin", "pass on standard input"),
            flag("t", "tty", "with a terminal (and standard input)"),
            with(
                "e",
                "env",
                ("NAME=VALUE", Kind::Text),
                "its environment; may be repeated",
            ),
            with(
                "",
                "cwd",
                ("PATH", Kind::Text),
                "its working directory; default: /",
            ),
        ],
    },
    Info {
        name: "units",
        words: "[NAME] [PATTERN...]",
        word: Kind::Instance,
        passes_words_on: false,
        summary: "list its systemd units",
        about: &[
            "The units that its systemd has loaded, or those whose names fit a pattern, as 'systemctl list-units --all' has them.",
        ],
        options: &[],
    },
    Info {
        name: "unit",
        words: "NAME [ACTION] UNIT",
        word: Kind::Instance,
        passes_words_on: false,
        summary: "show a systemd unit of it, or start, stop, restart... it",
        about: &[
            "Shows one unit as 'systemctl status' does, or does ACTION to it: start, stop, restart, reload or reset-failed. Waits for the end of the job, and tells its result; exit status 1 where that is neither done nor skipped.",
            "A unit without a suffix is a service.",
        ],
        options: &[],
    },
    Info {
        name: "keys",
        words: "[NAME]",
        word: Kind::Instance,
        passes_words_on: false,
        summary: "the recipient of its age identity, to encrypt secrets to",
        about: &[
            "The recipient of the identity that the instance's TPM holds: encrypt to it with age or sops.",
        ],
        options: &[flag(
            "",
            "tag",
            "its other spelling, age1tag1..., for which age 1.3 and rage need no plugin",
        )],
    },
    Info {
        name: "restart",
        words: "[NAME]",
        word: Kind::Instance,
        passes_words_on: false,
        summary: "stop it and start it as it was started",
        about: &[
            "Stops the instance and starts it as it was started, with what it had written. Also after its end, or when its virtual machine or its shim was killed.",
        ],
        options: &[
            with(
                "",
                "timeout",
                ("SECONDS", Kind::Text),
                "how long the orderly poweroff may take; default: 90",
            ),
            with("", "wait", ("STAGE", STAGES), "as in 'seed run'"),
        ],
    },
    Info {
        name: "stop",
        words: "[NAME]",
        word: Kind::Instance,
        passes_words_on: false,
        summary: "power it off; volumes, TPM state and logs stay",
        about: &[
            "Powers the instance off, in order, and removes everything of it but volumes, TPM state and logs. What it wrote outside its volumes is gone. Cleans up after a crash as well.",
        ],
        options: &[
            flag("", "kill", "end it at once, as if the power failed"),
            with(
                "",
                "timeout",
                ("SECONDS", Kind::Text),
                "how long the orderly poweroff may take before that; default: 90",
            ),
        ],
    },
    Info {
        name: "rm",
        words: "NAME --yes",
        word: Kind::Text,
        passes_words_on: false,
        summary: "delete volumes, TPM state and logs of a stopped instance",
        about: &[
            "Deletes volumes, TPM state and logs of a stopped instance. The TPM state is its identity: secrets encrypted to it can never be read again.",
        ],
        options: &[flag("y", "yes", "really")],
    },
    Info {
        name: "prune",
        words: "--older-than DAYS --yes",
        word: Kind::Text,
        passes_words_on: false,
        summary: "delete the logs of instances that ended long ago",
        about: &[
            "Deletes the logs of all instances of the namespace that have ended, where nothing that they keep has changed for so many days. Volumes stay; 'seed rm' deletes all of one instance.",
        ],
        options: &[
            with(
                "",
                "older-than",
                ("DAYS", Kind::Text),
                "for how many days nothing has changed",
            ),
            flag(
                "",
                "tpm",
                "their TPM state as well: secrets encrypted to it can never be read again",
            ),
            flag("y", "yes", "really"),
        ],
    },
    Info {
        name: "grow",
        words: "[NAME]",
        word: Kind::Instance,
        passes_words_on: false,
        summary: "give a running instance more processors or memory",
        about: &[
            "As far as it was started with room: growth.max_vcpus and growth.max_memory_mib of the configuration. It does not shrink while it runs, and starts with its own size again.",
        ],
        options: &[
            with(
                "",
                "vcpus",
                ("N", Kind::Text),
                "so many processors in all; needs KVM",
            ),
            with(
                "",
                "memory",
                ("SIZE", Kind::Text),
                "so much memory in all, as 768Mi or 2Gi; in steps of 128 MiB",
            ),
        ],
    },
    Info {
        name: "tpm",
        words: "backup|restore NAME FILE",
        word: Kind::OneOf(&["backup", "restore"]),
        passes_words_on: false,
        summary: "save and bring back an instance's identity",
        about: &[
            "Writes the TPM state and machine id of a stopped instance to FILE, a tar archive that only its owner may read, or makes them of one. Nothing that is there is overwritten. Whoever has FILE is the instance.",
            "FILE may be - : seed tpm backup NAME - | age -r RECIPIENT > FILE; age -d -i KEY FILE | seed tpm restore NAME -",
        ],
        options: &[],
    },
    Info {
        name: "metrics",
        words: "",
        word: Kind::Text,
        passes_words_on: false,
        summary: "figures of all instances for Prometheus",
        about: &[
            "Figures of every instance on this machine, as Prometheus text: once on standard output, or where an option says.",
        ],
        options: &[
            with(
                "",
                "listen",
                ("ADDRESS", Kind::Text),
                "to whoever asks for http://ADDRESS/metrics, such as 127.0.0.1:9750; until it is ended",
            ),
            with(
                "",
                "textfile",
                ("FILE", Kind::File),
                "once into FILE, which is replaced as a whole: for the textfile collector of a node exporter",
            ),
        ],
    },
    Info {
        name: "doctor",
        words: "",
        word: Kind::Text,
        passes_words_on: false,
        summary: "what this machine has and lacks",
        about: &[
            "Looks for everything that an instance needs on this machine, and names what mends what lacks. Exit status 1 when something lacks without which none can run.",
            "Root is also told what pods of containerd and Kubernetes need, such as programs in containerd's PATH; with --pods the exit status is 1 when something lacks without which none can be made.",
        ],
        options: &[flag(
            "",
            "pods",
            "fail where no pod can be made, also if instances run",
        )],
    },
    Info {
        name: "completions",
        words: "SHELL",
        word: Kind::OneOf(&SHELLS),
        passes_words_on: false,
        summary: "print completions for bash, zsh or fish",
        about: &[
            "Prints a script with which the shell completes commands, options and names of instances.",
            "bash: seed completions bash > /etc/bash_completion.d/seed; zsh: seed completions zsh > a folder of $fpath, as _seed; fish: seed completions fish > ~/.config/fish/completions/seed.fish.",
        ],
        options: &[],
    },
    Info {
        name: "man",
        words: "[COMMAND]",
        word: Kind::Command,
        passes_words_on: false,
        summary: "print the manual page, of the program or of a command",
        about: &["Prints the manual page in the form that man(1) reads: seed man run | man -l -"],
        options: &[],
    },
];

/// A command by its name.
pub(super) fn find(name: &str) -> Option<&'static Info> {
    COMMANDS.iter().find(|info| info.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_options_of_a_command_are_spelled_alike() {
        for info in COMMANDS {
            let all: Vec<&Opt> = info.all_options().collect();
            for (number, option) in all.iter().enumerate() {
                for other in &all[number + 1..] {
                    assert_ne!(option.long, other.long, "{}", info.name);
                    let shared = option.short == other.short && !option.short.is_empty();
                    assert!(!shared, "{}: -{}", info.name, option.short);
                }
                assert!(option.short.len() <= 1 && option.long.len() > 1);
                let sentence = option.help.ends_with('.') && !option.help.ends_with("...");
                assert!(!sentence, "{}", option.help);
            }
        }
    }
}
