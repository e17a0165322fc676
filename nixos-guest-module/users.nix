# Users and groups without a number of their own get one from their name: the same at every boot and in every
# closure, so that what they own on volumes stays theirs. Two names with one number are refused by NixOS.
{ lib, ... }:
let
  inherit (import ./lib) ids;
  number = name: lib.mkDefault (ids.idOf name);
  each = entry: lib.mkOption { type = lib.types.attrsOf (lib.types.submodule entry); };
  # NixOS compares every user's shell with those that want a module of their own, and for that evaluates how each of
  # them is built: a tenth of the time that `seed.meta` takes. What users have when nothing is said is none of them.
  plainShells = [
    "bash"
    "bash-interactive"
    "shadow"
  ];
in
{
  options.users.users = each (
    { config, name, ... }:
    {
      config.uid = number name;
      config.ignoreShellProgramCheck = lib.mkIf (builtins.elem (config.shell.pname or null) plainShells) (
        lib.mkDefault true
      );
    }
  );
  options.users.groups = each (
    { name, ... }:
    {
      config.gid = number name;
    }
  );
}
