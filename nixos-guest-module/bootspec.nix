# `seed.meta` inside the closure: an extension of boot.json (RFC 125), read by host-shim/src/spec/bootspec.rs.
{ config, ... }:
{
  boot.bootspec.extensions."farm.loom.seed.v1" = config.seed.meta;
}
