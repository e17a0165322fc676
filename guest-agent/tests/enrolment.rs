//! The script that fetches an instance's certificate (`nixos-guest-module/services/enrol.sh`), with the agent's own key in
//! a TPM and an authority that speaks EST over TLS.
//!
//! The authority is `openssl s_server` with this file's HTTP behind it; it sees whether a client brought a certificate.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: what fails here fails the test"
)]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use tempfile::TempDir;

const SERVICES: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../nixos-guest-module/services"
);

fn run(program: &str, directory: &Path, arguments: &[&str]) -> Output {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .env_remove("OPENSSL_CONF")
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {words}");
    output
}

fn openssl(directory: &Path, line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    String::from_utf8_lossy(&run("openssl", directory, &words).stdout).into_owned()
}

/// Where OpenSSL's provider for TPMs is, or a skip that is seen.
fn provider(test: &str) -> Option<PathBuf> {
    let said = openssl(Path::new("/"), "version -m");
    let folder = said.split('"').nth(1).unwrap_or_default();
    let module = Path::new(folder).join("tpm2.so");
    if module.is_file() {
        return Some(module);
    }
    // Past libtest's capture, and in one write: a skip must be seen.
    let line = format!("SKIPPED {test}: tpm2-openssl is not installed\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    None
}

/// One request, and whether the connection came with a certificate.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    line: String,
    certificate: bool,
}

/// What the authority answers to an enrolment.
#[derive(Clone, Copy)]
enum Answer {
    /// A certificate for as long.
    Days(u32),
    /// A certificate for another key.
    Foreign,
    NotYet,
}

struct Authority {
    server: Child,
    seen: Receiver<Seen>,
    address: String,
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Authority {
    /// Serves connections, one after the other, on an address that no other process has.
    fn start(files: &Path, answers: Vec<Answer>, address_tail: u8) -> Self {
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let address = format!("127.{high}.{low}.{address_tail}:4433");
        let log = fs::File::create(files.join("server.log")).unwrap();
        let mut server = Command::new("openssl")
            .args(["s_server", "-quiet", "-accept", &address, "-verify", "2"])
            .args(["-cert", "server.pem", "-key", "server.key"])
            .args(["-CAfile", "ca.pem"])
            .current_dir(files)
            .env_remove("OPENSSL_CONF")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let (input, output) = (server.stdin.take().unwrap(), server.stdout.take().unwrap());
        let (files, (sender, seen)) = (files.to_owned(), channel());
        thread::spawn(move || serve(&files, answers, input, output, &sender));
        Self {
            server,
            seen,
            address,
        }
    }

    fn seen(&self) -> Vec<(String, bool)> {
        let all = self.seen.try_iter();
        all.map(|seen| (seen.line, seen.certificate)).collect()
    }
}

fn serve(
    files: &Path,
    answers: Vec<Answer>,
    mut input: ChildStdin,
    output: ChildStdout,
    sender: &Sender<Seen>,
) {
    let mut reader = BufReader::new(output);
    let mut answers = answers.into_iter();
    let mut certificates = 0;
    loop {
        let (mut head, mut length) = (Vec::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let line = line.trim_end().to_owned();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            head.push(line);
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let line = head[0].clone();
        // It writes of each certificate that it was shown.
        let shown = fs::read_to_string(files.join("server.log")).unwrap();
        let shown = shown.matches("depth=0").count();
        let certificate = std::mem::replace(&mut certificates, shown) < shown;
        sender
            .send(Seen {
                line: line.clone(),
                certificate,
            })
            .unwrap();
        let (status, text) = if line.contains("/cacerts") {
            ("200 OK", bundle(files, "ca.pem"))
        } else if line.contains("/simplereenroll") && !certificate {
            ("401 Unauthorized", "who are you?".to_owned())
        } else {
            match answers.next() {
                Some(Answer::Days(days)) => ("200 OK", issue(files, &body, days)),
                Some(Answer::Foreign) => ("200 OK", bundle(files, "server.pem")),
                Some(Answer::NotYet) | None => ("202 Accepted", String::new()),
            }
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
            text.len()
        );
        if input.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Certificates as EST sends them.
fn bundle(files: &Path, certificates: &str) -> String {
    openssl(
        files,
        &format!("crl2pkcs7 -nocrl -certfile {certificates} -outform DER -out bundle.der"),
    );
    openssl(files, "base64 -in bundle.der")
}

fn issue(files: &Path, request: &[u8], days: u32) -> String {
    fs::write(files.join("request.b64"), request).unwrap();
    openssl(files, "base64 -d -in request.b64 -out request.der");
    openssl(
        files,
        &format!(
            "x509 -req -inform DER -in request.der -CA ca.pem -CAkey ca.key -copy_extensions copy -days {days} -out issued.pem"
        ),
    );
    bundle(files, "issued.pem")
}

/// A guest's files, and the authority's.
struct Place {
    directory: TempDir,
    environment: Vec<(String, String)>,
}

impl Place {
    fn new(tpm: Option<(&Path, &Path)>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let files = directory.path();
        let new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 9";
        openssl(
            files,
            &format!("{new} -subj /CN=ca -keyout ca.key -out ca.pem"),
        );
        openssl(
            files,
            &format!(
                "{new} -subj /CN=est -addext subjectAltName=DNS:est.test -keyout server.key -out server.pem"
            ),
        );
        // systemctl writes down what it was asked for.
        seed_script::write(
            &files.join("systemctl"),
            "#!/bin/sh\necho \"$@\" >> \"$(dirname \"$0\")/started\"\n",
        );
        let at = |name: &str| files.join(name).display().to_string();
        let path = std::env::var("PATH").unwrap();
        let mut environment = vec![
            ("PATH", format!("{}:{path}", files.display())),
            ("SEED_INSTANCE", "web".to_owned()),
            ("SEED_NAMESPACE", "s-abc".to_owned()),
            (
                "SEED_TLS_AGENT",
                env!("CARGO_BIN_EXE_seed-agent").to_owned(),
            ),
            ("SEED_TLS_KEY", at("tls/key.pem")),
            ("SEED_TLS_CERTIFICATE", at("tls/cert.pem")),
            ("SEED_TLS_AUTHORITY", at("tls/ca.pem")),
            ("SEED_TLS_EST_AUTHORITY", at("server.pem")),
            ("SEED_TLS_TRUST_DOMAIN", "example.org".to_owned()),
            ("SEED_TLS_USERS", "a.service b.service".to_owned()),
            ("CURL_HOME", at("")),
        ];
        if let Some((socket, module)) = tpm {
            environment.extend([
                ("OPENSSL_CONF", format!("{SERVICES}/openssl.cnf")),
                ("SEED_TPM2_MODULE", module.display().to_string()),
                (
                    "TPM2OPENSSL_TCTI",
                    format!("swtpm:path={}", socket.display()),
                ),
                ("AGE_TPM_TCTI", format!("swtpm:path={}", socket.display())),
            ]);
        }
        Self {
            environment: environment
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            directory,
        }
    }

    fn files(&self) -> &Path {
        self.directory.path()
    }

    /// Runs the script as the unit does, against that authority; the exit status and what it said.
    fn enrol(&self, authority: Option<&Authority>) -> (i32, String) {
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail"]);
        command.arg(format!("{SERVICES}/enrol.sh"));
        command.env_clear().envs(self.environment.iter().cloned());
        if let Some(authority) = authority {
            // The name is the certificate's, the address this test's.
            let (host, port) = authority.address.split_once(':').unwrap();
            let rule = format!("resolve = est.test:{port}:{host}\n");
            fs::write(self.files().join(".curlrc"), rule).unwrap();
            command.env("SEED_EST_URL", format!("https://est.test:{port}/"));
        }
        let output = command.output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().unwrap(), words)
    }

    /// A key without a TPM; the script takes it as it is.
    fn own_key(&self) {
        fs::create_dir(self.files().join("tls")).unwrap();
        openssl(
            self.files(),
            "genpkey -algorithm EC -pkeyopt group:P-256 -out tls/key.pem",
        );
    }

    /// A certificate of the key that began and ends then.
    fn had_a_certificate(&self, begin: &str, end: &str) {
        let files = self.files();
        let date = |when: &str| {
            let said = run("date", files, &["-u", "-d", when, "+%Y%m%d%H%M%SZ"]);
            String::from_utf8(said.stdout).unwrap().trim().to_owned()
        };
        let settings = "[ca]\ndefault_ca = a\n[a]\ndatabase = index.txt\nnew_certs_dir = .\nserial = serial\n\
                        default_md = sha256\npolicy = p\n[p]\ncommonName = supplied\n";
        fs::write(files.join("ca.cnf"), settings).unwrap();
        fs::write(files.join("index.txt"), "").unwrap();
        fs::write(files.join("serial"), "01\n").unwrap();
        openssl(
            files,
            "req -new -key tls/key.pem -subj /CN=web.s-abc -out old.csr",
        );
        let (begin, end) = (date(begin), date(end));
        openssl(
            files,
            &format!(
                "ca -batch -notext -config ca.cnf -in old.csr -cert ca.pem -keyfile ca.key -startdate {begin} -enddate {end} -out tls/cert.pem"
            ),
        );
        fs::copy(files.join("ca.pem"), files.join("tls/ca.pem")).unwrap();
    }

    fn started(&self) -> String {
        fs::read_to_string(self.files().join("started")).unwrap_or_default()
    }
}

const CACERTS: &str = "GET /.well-known/est/cacerts HTTP/1.1";
const ENROL: &str = "POST /.well-known/est/simpleenroll HTTP/1.1";
const AGAIN: &str = "POST /.well-known/est/simplereenroll HTTP/1.1";

fn request(line: &str, certificate: bool) -> (String, bool) {
    (line.to_owned(), certificate)
}

#[test]
fn a_key_in_the_tpm_gets_a_certificate_with_the_instances_names() {
    let Some(module) = provider("enrolment") else {
        return;
    };
    let tpm = tempfile::tempdir().unwrap();
    let _swtpm = seed_container::Swtpm::start(tpm.path()).unwrap();
    // libtss2 looks for the control socket beside the other.
    symlink("control", tpm.path().join("tpm.ctrl")).unwrap();
    let place = Place::new(Some((&tpm.path().join("tpm"), &module)));
    let authority = Authority::start(place.files(), vec![Answer::Days(3)], 1);

    let (status, words) = place.enrol(Some(&authority));
    assert_eq!(status, 0, "{words}");
    assert!(
        words.contains("the certificate of web.s-abc is good until"),
        "{words}"
    );
    let key = fs::read_to_string(place.files().join("tls/key.pem")).unwrap();
    assert!(
        key.starts_with("-----BEGIN TSS2 PRIVATE KEY-----\n"),
        "{key}"
    );
    let shown = openssl(
        place.files(),
        "x509 -in tls/cert.pem -noout -subject -ext subjectAltName -nameopt RFC2253",
    );
    assert!(shown.contains("subject=CN=web.s-abc\n"), "{shown}");
    let names = "DNS:web, DNS:web.s-abc, DNS:web.s-abc.svc, DNS:web.s-abc.svc.cluster.local, URI:spiffe://example.org/s-abc/web";
    assert!(shown.contains(names), "{shown}");
    let mode = |name: &str| {
        let metadata = fs::metadata(place.files().join(name)).unwrap();
        metadata.permissions().mode() & 0o777
    };
    assert_eq!((mode("tls/key.pem"), mode("tls/cert.pem")), (0o600, 0o644));
    assert_eq!(place.started(), "--no-block start a.service b.service\n");

    // A good certificate is left alone, and nobody is asked.
    assert_eq!(place.enrol(Some(&authority)), (0, String::new()));
    assert_eq!(
        authority.seen(),
        [request(CACERTS, false), request(ENROL, false)]
    );
}

#[test]
fn an_old_certificate_vouches_for_the_new_one() {
    let place = Place::new(None);
    place.own_key();
    place.had_a_certificate("-9 days", "+1 day");
    let authority = Authority::start(place.files(), vec![Answer::Days(3)], 2);
    let (status, words) = place.enrol(Some(&authority));
    assert_eq!(status, 0, "{words}");
    assert_eq!(
        authority.seen(),
        [request(CACERTS, false), request(AGAIN, true)]
    );
    assert_eq!(
        place.started(),
        "--no-block try-restart a.service b.service\n"
    );
}

#[test]
fn a_certificate_with_a_third_of_its_time_left_is_kept() {
    let place = Place::new(None);
    place.own_key();
    place.had_a_certificate("-5 days", "+5 days");
    let authority = Authority::start(place.files(), vec![], 4);
    assert_eq!(place.enrol(Some(&authority)), (0, String::new()));
    assert_eq!(authority.seen(), []);
}

#[test]
fn what_the_authority_does_not_give_changes_nothing_and_is_said() {
    let place = Place::new(None);
    place.own_key();
    let authority = Authority::start(place.files(), vec![Answer::NotYet, Answer::Foreign], 3);
    let (status, words) = place.enrol(Some(&authority));
    assert_eq!(status, 1, "{words}");
    assert!(words.contains("has not decided yet"), "{words}");
    let (status, words) = place.enrol(Some(&authority));
    assert_eq!(status, 1, "{words}");
    assert!(words.contains("a certificate for another key"), "{words}");
    assert!(!place.files().join("tls/cert.pem").exists());
    assert_eq!(place.started(), "");
}

#[test]
fn a_platform_without_an_authority_is_no_failure_and_one_without_tls_is() {
    let mut place = Place::new(None);
    let (status, words) = place.enrol(None);
    assert_eq!(status, 0, "{words}");
    assert!(words.contains("SEED_EST_URL is not set\n"), "{words}");
    let url = ("SEED_EST_URL".to_owned(), "http://est.test".to_owned());
    place.environment.push(url);
    let (status, words) = place.enrol(None);
    assert_eq!(status, 78, "{words}");
    assert!(words.contains("by https:// alone"), "{words}");
}
