//! Completions for bash, zsh and fish, from the table. Names of instances are asked of `seed ps --quiet` when they are
//! wanted.

use super::table::{self, Kind, Opt, SHELLS, Value};
use crate::error::CliError;

/// How a script gets the names of instances.
const INSTANCES: &str = "seed ps --quiet 2>/dev/null";

/// The script for this shell.
pub(super) fn of(shell: &str) -> Result<String, CliError> {
    let known = SHELLS.join(", ");
    match shell {
        "bash" => Ok(bash()),
        "zsh" => Ok(zsh()),
        "fish" => Ok(fish()),
        "" => Err(CliError::usage(
            format!("which shell is not said: {known}"),
            "completions",
        )),
        other => Err(CliError::usage(
            format!("there are no completions for {other:?}: use {known}"),
            "completions",
        )),
    }
}

fn names() -> String {
    let names: Vec<&str> = table::COMMANDS.iter().map(|info| info.name).collect();
    names.join(" ")
}

/// `-n --lines`
fn spellings(option: &Opt) -> Vec<String> {
    let short = Some(option.short).filter(|short| !short.is_empty());
    let short = short.map(|short| format!("-{short}"));
    short
        .into_iter()
        .chain([format!("--{}", option.long)])
        .collect()
}

fn bash() -> String {
    // What may stand there, as compgen(1) is asked for it.
    let reply = |kind: Kind| match kind {
        Kind::Text => None,
        Kind::Instance => Some(format!("compgen -W \"$({INSTANCES})\" -- \"$word\"")),
        Kind::Command => Some(format!("compgen -W '{}' -- \"$word\"", names())),
        Kind::Folder => Some("compgen -d -- \"$word\"".to_owned()),
        Kind::File => Some("compgen -f -- \"$word\"".to_owned()),
        Kind::OneOf(words) => Some(format!("compgen -W '{}' -- \"$word\"", words.join(" "))),
    };
    let mut values = String::new();
    let mut flags = String::new();
    let mut words = String::new();
    for info in table::COMMANDS {
        let all: Vec<String> = info.all_options().flat_map(spellings).collect();
        flags += &format!("    {}) flags='{}' ;;\n", info.name, all.join(" "));
        for option in info.all_options() {
            let Value::Needed(_, kind) = option.value else {
                continue;
            };
            let spelled = spellings(option).into_iter();
            let patterns: Vec<_> = spelled.map(|one| format!("{}:{one}", info.name)).collect();
            let answer =
                reply(kind).map_or_else(String::new, |ask| format!("COMPREPLY=($({ask})); "));
            values += &format!("    {}) {answer}return ;;\n", patterns.join("|"));
        }
        if let Some(ask) = reply(info.word) {
            words += &format!("    {}) COMPREPLY=($({ask})) ;;\n", info.name);
        }
    }
    format!(
        "\
# bash completion for seed
_seed() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} command='' i flags=''
  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${{COMP_WORDS[i]}} in
    --namespace) ((i++)) ;;
    --) return ;;
    -*) ;;
    *) command=${{COMP_WORDS[i]}}; break ;;
    esac
  done
  COMPREPLY=()
  if [[ -z $command ]]; then
    COMPREPLY=($(compgen -W '{names} help' -- \"$word\"))
    return
  fi
  # After the two dashes the words are of another command line.
  [[ \" ${{COMP_WORDS[*]:0:COMP_CWORD}} \" == *' -- '* ]] && return
  case $command:$before in
{values}  esac
  if [[ $word == -* ]]; then
    case $command in
{flags}    esac
    COMPREPLY=($(compgen -W \"$flags\" -- \"$word\"))
    return
  fi
  case $command in
{words}  esac
}}
complete -F _seed seed
",
        names = names(),
    )
}

fn zsh() -> String {
    let action = |kind: Kind| match kind {
        Kind::Text => " ".to_owned(),
        Kind::Instance => "_seed_instances".to_owned(),
        Kind::Command => "_seed_commands".to_owned(),
        Kind::Folder => "_files -/".to_owned(),
        Kind::File => "_files".to_owned(),
        Kind::OneOf(words) => format!("({})", words.join(" ")),
    };
    let mut cases = String::new();
    for info in table::COMMANDS {
        cases += &format!("    {})\n      _arguments -s", info.name);
        for option in info.all_options() {
            let help = zsh_text(option.help);
            let value = match option.value {
                Value::Flag => String::new(),
                Value::Needed(name, kind) => format!(":{}:{}", zsh_text(name), action(kind)),
                Value::Optional(name) => format!("::{}: ", zsh_text(name)),
            };
            for spelled in spellings(option) {
                cases += &format!(" \\\n        '*{spelled}[{help}]{value}'");
            }
        }
        if info.word != Kind::Text {
            cases += &format!(
                " \\\n        '1:{}:{}'",
                zsh_text(info.words),
                action(info.word)
            );
        }
        cases += "\n      ;;\n";
    }
    let commands: String = table::COMMANDS
        .iter()
        .map(|info| format!("    '{}:{}'\n", info.name, zsh_text(info.summary)))
        .collect();
    format!(
        "\
#compdef seed
_seed_instances() {{
  local -a names
  names=(${{(f)\"$({INSTANCES})\"}})
  compadd -a names
}}
_seed_commands() {{
  local -a commands
  commands=(
{commands}  )
  _describe command commands
}}
_seed() {{
  local context state line
  _arguments -C '1: :_seed_commands' '*::argument:->rest' && return
  case $words[1] in
{cases}  esac
}}
_seed \"$@\"
"
    )
}

/// Text inside single quotes and brackets of a specification for `_arguments` (zshcompsys(1)).
fn zsh_text(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '\'' => escaped.push_str("'\\''"),
            '[' | ']' | ':' | '\\' => escaped.extend(['\\', c]),
            c => escaped.push(c),
        }
    }
    escaped
}

fn fish() -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let values = |kind: Kind| match kind {
        Kind::Text => " -f".to_owned(),
        Kind::Instance => format!(" -f -a '({INSTANCES})'"),
        Kind::Command => format!(" -f -a '{}'", names()),
        Kind::Folder => " -f -a '(__fish_complete_directories)'".to_owned(),
        Kind::File => " -F".to_owned(),
        Kind::OneOf(words) => format!(" -f -a '{}'", words.join(" ")),
    };
    let mut text = "# fish completion for seed\ncomplete -c seed -f\n".to_owned();
    for info in table::COMMANDS {
        let (name, summary) = (info.name, quoted(info.summary));
        text += &format!("complete -c seed -n __fish_use_subcommand -a {name} -d {summary}\n");
        let when = format!("complete -c seed -n '__fish_seen_subcommand_from {name}'");
        if info.word != Kind::Text {
            text += &format!("{when}{}\n", values(info.word));
        }
        for option in info.all_options() {
            let short = match option.short {
                "" => String::new(),
                short => format!(" -s {short}"),
            };
            let value = match option.value {
                Value::Flag | Value::Optional(_) => String::new(),
                Value::Needed(_, kind) => format!(" -r{}", values(kind)),
            };
            let (long, help) = (option.long, quoted(option.help));
            text += &format!("{when}{short} -l {long}{value} -d {help}\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_knows_every_command_and_option() {
        for shell in SHELLS {
            let text = of(shell).unwrap();
            for info in table::COMMANDS {
                assert!(text.contains(info.name), "{shell}: {}", info.name);
                for option in info.options {
                    assert!(text.contains(option.long), "{shell}: {}", option.long);
                }
            }
            assert!(text.contains(INSTANCES), "{shell}");
        }
        for wrong in ["", "csh"] {
            assert!(of(wrong).is_err());
        }
    }

    #[test]
    fn bash_completes_what_may_stand_there() {
        let script = format!(
            "{}\nseed() {{ echo one; echo two; }}\nCOMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1))\n_seed; echo \"${{COMPREPLY[@]}}\"",
            of("bash").unwrap()
        );
        for (words, completed) in [
            (&["seed", "re"][..], "restart"),
            (&["seed", "status", "t"], "two"),
            (&["seed", "--namespace", "x", "ins"], "inspect"),
            (&["seed", "run", "--size", "x"], "xs xl"),
            (&["seed", "stop", "--k"], "--kill"),
            (&["seed", "exec", "one", "--", "o"], ""),
            (&["seed", "run", "--name", "o"], ""),
            (&["seed", "completions", "z"], "zsh"),
        ] {
            let output = std::process::Command::new("bash")
                .args(["-c", &script, "bash"])
                .args(words)
                .output()
                .unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            assert_eq!(said.trim_end(), completed, "{words:?}");
            assert_eq!(output.stderr, b"", "{words:?}");
        }
    }

    #[test]
    fn text_in_a_specification_of_zsh_ends_where_it_should() {
        assert_eq!(zsh_text("it's [a:b]"), "it'\\''s \\[a\\:b\\]");
    }
}
