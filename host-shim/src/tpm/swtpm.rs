//! swtpm's command line (swtpm(8)), and its first answer: one process per start of the VM, it ends when QEMU does.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::Path,
};

/// `CMD_GET_CAPABILITY` of its control channel (`tpm_ioctl.h`): four bytes, answered with a result and a set of bits.
const GET_CAPABILITY: [u8; 4] = 1_u32.to_be_bytes();
const ANSWER_BYTES: usize = 8;

/// Where it is controlled from.
#[derive(Debug)]
pub enum Control<'a> {
    /// Whoever connects to this socket, which it makes.
    Socket(&'a Path),
    /// The other end of this.
    Open(BorrowedFd<'a>),
}

/// Arguments for a TPM 2.0 with its state in its working directory.
pub fn args(control: &Control<'_>) -> Vec<OsString> {
    let mut channel = OsString::from("type=unixio,");
    match control {
        Control::Socket(path) => {
            channel.push("path=");
            channel.push(path);
            channel.push(",mode=0600");
        }
        Control::Open(fd) => channel.push(format!("clientfd={}", fd.as_raw_fd())),
    }
    vec![
        "socket".into(),
        "--tpm2".into(),
        "--tpmstate".into(),
        "dir=.,mode=0600".into(),
        "--ctrl".into(),
        channel,
        // No firmware starts the TPM on every path, so it comes up started (TPM2_Startup(CLEAR)).
        "--flags".into(),
        "startup-clear".into(),
    ]
}

/// An open control channel whose first answer is waited for: swtpm is there when it comes.
#[derive(Debug)]
pub struct Asked {
    channel: UnixStream,
    answer: Vec<u8>,
}

impl Asked {
    /// Asks. Nothing blocks.
    pub fn over(mut channel: UnixStream) -> io::Result<Self> {
        channel.set_nonblocking(true)?;
        // One that has ended already does not hear it, and never answers: its end says why.
        let _ = channel.write_all(&GET_CAPABILITY);
        Ok(Self {
            channel,
            answer: Vec::new(),
        })
    }

    /// Whether it has answered by now.
    pub fn answered(&mut self) -> bool {
        let mut rest = [0; ANSWER_BYTES];
        let missing = ANSWER_BYTES - self.answer.len();
        if let Ok(read) = self.channel.read(&mut rest[..missing]) {
            self.answer.extend_from_slice(&rest[..read]);
        }
        self.answer.len() == ANSWER_BYTES
    }

    /// The channel, for whoever uses the TPM.
    pub fn channel(self) -> io::Result<UnixStream> {
        self.channel.set_nonblocking(false)?;
        Ok(self.channel)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn line(control: &Control<'_>) -> String {
        let args = args(control);
        let args: Vec<_> = args.iter().map(|a| a.to_str().unwrap()).collect();
        args.join(" ")
    }

    #[test]
    fn the_command_line_is_this() {
        assert_eq!(
            line(&Control::Socket(Path::new("/r/tpm.sock"))),
            "socket --tpm2 --tpmstate dir=.,mode=0600 \
             --ctrl type=unixio,path=/r/tpm.sock,mode=0600 --flags startup-clear"
        );
        let (one, _other) = UnixStream::pair().unwrap();
        let number = one.as_raw_fd();
        assert_eq!(
            line(&Control::Open(one.as_fd())),
            format!(
                "socket --tpm2 --tpmstate dir=.,mode=0600 \
                 --ctrl type=unixio,clientfd={number} --flags startup-clear"
            )
        );
    }

    #[test]
    fn who_has_ended_gives_no_answer() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let mut asked = Asked::over(ours).unwrap();
        assert!(!asked.answered() && !asked.answered());
    }

    #[test]
    fn an_answer_may_come_in_parts() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut asked = Asked::over(ours).unwrap();
        let mut question = [0; 4];
        theirs.read_exact(&mut question).unwrap();
        assert_eq!((question, asked.answered()), ([0, 0, 0, 1], false));
        for part in [&[0; 3][..], &[0, 0, 0, 0xff]] {
            theirs.write_all(part).unwrap();
            assert!(!asked.answered());
        }
        // One more than the answer is left to whoever comes next.
        theirs.write_all(b"!?").unwrap();
        assert!(asked.answered() && asked.answered());
        let mut rest = [0];
        asked.channel().unwrap().read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"?");
    }
}
