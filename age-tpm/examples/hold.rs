//! Holds the key of an identity file and lends it: `hold IDENTITY SOCKET`, until killed.

use std::error::Error;
use std::fs::File;
use std::path::Path;

use age_tpm::held::{Holder, Server};
use age_tpm::identity::read_identities;
use age_tpm::tpm::Tcti;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(identity), Some(socket)) = (args.next(), args.next()) else {
        return Err("usage: hold IDENTITY SOCKET".into());
    };
    let identity = read_identities(File::open(identity)?)?.remove(0);
    let mut holder =
        Holder::new(identity, Tcti::from_env()?).ok_or("a key with PIN is never held")?;
    holder.load()?;
    let server = Server::bind(Path::new(&socket), None)?;
    server.run(&mut holder, &mut |e| eprintln!("{e}"));
    Ok(())
}
