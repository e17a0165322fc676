//! `seed tpm`: an instance's identity to a file and back.

use std::{fs::File, io, path::Path, process::ExitCode};

use seed_shim::{
    names::ContainerId,
    text::chain,
    tpm::{self, BackupError, StateDirError},
};
use serde_json::json;

use super::Context;
use crate::{cli::TpmCommand, error::CliError, output};

pub(super) fn tpm(
    context: &Context<'_>,
    what: TpmCommand,
    id: ContainerId,
    file: &Path,
) -> Result<ExitCode, CliError> {
    let instance = context.named(id);
    let (id, paths) = (instance.id(), instance.paths());
    let pipe = file == Path::new("-");
    let done = match what {
        TpmCommand::Backup => tpm::pack(paths).and_then(|archive| {
            if pipe {
                return Ok(Some(archive));
            }
            tpm::save(&archive, file).map(|()| None)
        }),
        TpmCommand::Restore => archive(file, pipe)
            .and_then(|archive| tpm::unpack(&archive, paths))
            .map(|()| None),
    };
    match done.map_err(|error| failed(&error, id))? {
        Some(archive) => output::print_bytes(&archive)?,
        None if context.global.json => {
            output::print_json(&json!({ "name": id.as_str(), "file": file }))?;
        }
        None => output::print(&format!(
            "identity of {id} {} {}\n",
            match what {
                TpmCommand::Backup => "saved to",
                TpmCommand::Restore => "restored from",
            },
            file.display()
        ))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn archive(file: &Path, pipe: bool) -> Result<Vec<u8>, BackupError> {
    if pipe {
        return tpm::load(io::stdin().lock(), file);
    }
    let opened = File::open(file).map_err(|source| BackupError::Io {
        path: file.to_owned(),
        source,
    })?;
    tpm::load(opened, file)
}

fn failed(error: &BackupError, id: &ContainerId) -> CliError {
    let remedy = match error {
        BackupError::State(StateDirError::InUse(_)) => {
            format!(
                "Stop it first: seed stop {id}, or, a pod's, kubectl scale --replicas 0 of what makes it"
            )
        }
        BackupError::Nothing(_) => {
            "Only an instance that has run once has an identity. See 'seed ps' for the names."
                .into()
        }
        BackupError::Exists(_) => format!(
            "Restore under another name, or give up the present identity: seed rm {id} --yes"
        ),
        BackupError::Archive(_) | BackupError::Incomplete(_) => {
            "Use a file that 'seed tpm backup' wrote, decrypted.".into()
        }
        BackupError::State(_) | BackupError::Io { .. } => {
            "Choose another file, or mend what is said above.".into()
        }
    };
    CliError::new(chain(error), remedy)
}
