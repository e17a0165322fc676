//! What the Sandbox API's options say of a pod: `runtime.v1.PodSandboxConfig` of CRI
//! (k8s.io/cri-api/pkg/apis/runtime/v1/api.proto). A few fields of its many, so they are read by hand.
//!
//! Without a pause container nobody makes the pod's `/etc/resolv.conf` and `/etc/hostname` on the host: name and DNS
//! are the guest's to be told. `/etc/hosts` comes from kubelet, as a mount of the container.

use std::{collections::BTreeMap, fs};

use containerd_shim_protos::protobuf::{CodedInputStream, Result, well_known_types::any::Any};

use crate::spec::{PodSpec, Resources};

/// The type's name; who packs it may put a host part before it.
const TYPE: &str = "runtime.v1.PodSandboxConfig";

/// Fields of `PodSandboxConfig`.
const HOSTNAME: u32 = 2;
const DNS: u32 = 4;
const LINUX: u32 = 8;

/// Fields of `DNSConfig`.
const SERVERS: u32 = 1;
const SEARCHES: u32 = 2;
const OPTIONS: u32 = 3;

/// Fields of `LinuxPodSandboxConfig`, and fields of `LinuxContainerResources`.
const CGROUP_PARENT: u32 = 1;
const SYSCTLS: u32 = 3;
const RESOURCES: u32 = 5;
const CPU_PERIOD: u32 = 1;
const CPU_QUOTA: u32 = 2;
const MEMORY_LIMIT: u32 = 4;

/// Fields of an entry of a map.
const KEY: u32 = 1;
const VALUE: u32 = 2;

/// Wire types of protobuf's encoding.
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const LENGTH: u32 = 2;

/// What a pod without a DNS configuration of its own gets.
const HOSTS_RESOLVER: &str = "/etc/resolv.conf";

/// The pod that a sandbox's options describe: they say nothing where they are of another type.
pub(super) fn pod(options: Option<&Any>) -> Result<PodSpec> {
    let config = of_pod(options);
    if config.is_empty() {
        return Ok(PodSpec::default());
    }
    let linux = message(config, LINUX)?;
    let resources = message(&linux, RESOURCES)?;
    let period = number(&resources, CPU_PERIOD)?.and_then(|period| u64::try_from(period).ok());
    let mut dns = resolver(&message(config, DNS)?)?;
    if dns.is_empty() {
        let hosts = fs::read_to_string(HOSTS_RESOLVER).unwrap_or_default();
        let plain = |line: &&str| !line.is_empty() && !line.starts_with(['#', ';']);
        dns = hosts.lines().filter(plain).map(str::to_owned).collect();
    }
    Ok(PodSpec {
        // Named below it by the sandbox's id.
        group: None,
        limits: Resources::new(
            number(&resources, CPU_QUOTA)?,
            period,
            number(&resources, MEMORY_LIMIT)?,
        ),
        hostname: text(config, HOSTNAME)?,
        dns,
        sysctls: map(&linux, SYSCTLS)?,
    })
}

/// The control group of the pod that a sandbox's options describe; empty where they name none.
pub(super) fn group(options: Option<&Any>) -> Result<String> {
    let linux = message(of_pod(options), LINUX)?;
    text(&linux, CGROUP_PARENT)
}

/// The description of a pod, if these options are one.
fn of_pod(options: Option<&Any>) -> &[u8] {
    let ours = |any: &&Any| any.type_url.rsplit('/').next() == Some(TYPE);
    options.filter(ours).map_or(&[], |any| &any.value)
}

/// Lines of resolv.conf(5).
fn resolver(dns: &[u8]) -> Result<Vec<String>> {
    let servers = texts(dns, SERVERS)?;
    let mut lines: Vec<_> = servers
        .iter()
        .map(|one| format!("nameserver {one}"))
        .collect();
    for (field, word) in [(SEARCHES, "search"), (OPTIONS, "options")] {
        let words = texts(dns, field)?;
        if !words.is_empty() {
            lines.push(format!("{word} {}", words.join(" ")));
        }
    }
    Ok(lines)
}

/// The text in a field; empty where it is not there.
fn text(bytes: &[u8], field: u32) -> Result<String> {
    Ok(texts(bytes, field)?.pop().unwrap_or_default())
}

/// The texts in a field, one or many.
fn texts(bytes: &[u8], field: u32) -> Result<Vec<String>> {
    let mut found = Vec::new();
    fields(bytes, |tag, input| {
        if tag != field << 3 | LENGTH {
            return skip(tag, input);
        }
        found.push(input.read_string()?);
        Ok(())
    })?;
    Ok(found)
}

/// A field that is a map of texts.
fn map(bytes: &[u8], field: u32) -> Result<BTreeMap<String, String>> {
    let entries = messages(bytes, field)?.into_iter();
    entries
        .map(|entry| Ok((text(&entry, KEY)?, text(&entry, VALUE)?)))
        .collect()
}

/// The bytes of a message in a field; none where it is not there.
fn message(bytes: &[u8], field: u32) -> Result<Vec<u8>> {
    Ok(messages(bytes, field)?.pop().unwrap_or_default())
}

/// The bytes of each message in a field.
fn messages(bytes: &[u8], field: u32) -> Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    fields(bytes, |tag, input| {
        if tag != field << 3 | LENGTH {
            return skip(tag, input);
        }
        found.push(input.read_bytes()?);
        Ok(())
    })?;
    Ok(found)
}

fn number(bytes: &[u8], field: u32) -> Result<Option<i64>> {
    let mut found = None;
    fields(bytes, |tag, input| {
        if tag != field << 3 | VARINT {
            return skip(tag, input);
        }
        found = Some(input.read_int64()?);
        Ok(())
    })?;
    Ok(found)
}

fn fields(
    bytes: &[u8],
    mut take: impl FnMut(u32, &mut CodedInputStream<'_>) -> Result<()>,
) -> Result<()> {
    let mut input = CodedInputStream::from_bytes(bytes);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        take(tag, &mut input)?;
    }
    Ok(())
}

fn skip(tag: u32, input: &mut CodedInputStream<'_>) -> Result<()> {
    match tag & 7 {
        VARINT => input.read_raw_varint64().map(drop),
        FIXED64 => input.read_fixed64().map(drop),
        LENGTH => input.read_bytes().map(drop),
        _ => input.read_fixed32().map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field with a message in it.
    fn nested(field: u8, bytes: &[u8]) -> Vec<u8> {
        [&[field << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }

    fn options(value: Vec<u8>) -> Any {
        Any {
            type_url: TYPE.into(),
            value,
            ..Any::default()
        }
    }

    #[test]
    fn limits_name_and_dns_are_found_among_all_else() {
        // A quota of 250 ms in 100 ms, shares, 1 GiB.
        let resources = [
            &[0x08, 0xa0, 0x8d, 0x06, 0x10, 0x90, 0xa1, 0x0f, 0x18, 0x02][..],
            &[0x20, 0x80, 0x80, 0x80, 0x80, 0x04],
        ]
        .concat();
        let sysctl = |name: &[u8], value: &[u8]| [nested(1, name), nested(2, value)].concat();
        let linux = [
            nested(1, b"/kubepods"),
            nested(3, &sysctl(b"kernel.x", b"1")),
            nested(3, &sysctl(b"kernel.y", b"2 3")),
            nested(5, &resources),
        ]
        .concat();
        let dns = [
            nested(1, b"10.96.0.10"),
            nested(2, b"a.svc"),
            nested(2, b"svc"),
        ]
        .concat();
        let config = [nested(2, b"name"), nested(4, &dns), nested(8, &linux)].concat();
        let found = pod(Some(&options(config.clone()))).unwrap();
        assert_eq!(found.limits.vcpus().unwrap().unwrap().get(), 3);
        assert_eq!(found.limits.memory().unwrap().unwrap().get(), 1024);
        assert_eq!(group(Some(&options(config.clone()))).unwrap(), "/kubepods");
        assert_eq!(found.hostname, "name");
        let sysctls: Vec<_> = found.sysctls.into_iter().collect();
        let wanted = [("kernel.x", "1"), ("kernel.y", "2 3")];
        assert_eq!(
            sysctls,
            wanted.map(|(name, value)| (name.into(), value.into()))
        );
        assert_eq!(found.dns, ["nameserver 10.96.0.10", "search a.svc svc"]);
        let cut = &config[..config.len() - 1];
        assert!(pod(Some(&options(cut.to_vec()))).is_err());
    }

    #[test]
    fn options_of_others_and_none_are_no_limits() {
        let other = Any {
            type_url: "runtimeoptions.v1.Options".into(),
            value: vec![0xff],
            ..Any::default()
        };
        for options in [None, Some(&other), Some(&options(nested(2, b"name")))] {
            let found = pod(options).unwrap().limits;
            assert_eq!((found.vcpus(), found.memory()), (Ok(None), Ok(None)));
            assert_eq!(group(options).unwrap(), "");
        }
    }
}
