# Users and groups without a number of their own get one from their name: the same at every boot and in every
# closure, so that what they own on volumes stays theirs. Two names with one number are refused by NixOS.
{ lib, ... }:
let
  inherit (import ./lib) ids;
  numbered =
    key:
    lib.mkOption {
      type = lib.types.attrsOf (
        lib.types.submodule (
          { name, ... }:
          {
            config.${key} = lib.mkDefault (ids.idOf name);
          }
        )
      );
    };
in
{
  options.users.users = numbered "uid";
  options.users.groups = numbered "gid";
}
