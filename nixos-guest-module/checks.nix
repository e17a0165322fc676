# `nix flake check`: made from the package set, so that no package is forgotten. Each package is built, and each
# program that has a version says it; then the Nix files, the table of ports, and the VM tests (which want KVM).
{
  pkgs,
  packages,
  mkSeed,
  sops-nix,
}:
let
  inherit (pkgs) lib;
  programs = lib.filterAttrs (_: package: package.meta ? mainProgram && package ? version) packages;

  saysItsVersion =
    name: package:
    pkgs.runCommand "${name}-version" { } ''
      ${lib.getExe package} --version | tee "$out"
      grep --quiet --fixed-strings ${lib.escapeShellArg package.version} "$out"
    '';

  # The reference's snippets stay as they are written there.
  nixFiles = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.difference (lib.fileset.fileFilter (
      file: file.hasExt "nix"
    ) ../.) ./tests/reference;
  };

  lint =
    pkgs.runCommand "seed-nix-lint"
      {
        nativeBuildInputs = [
          pkgs.deadnix
          pkgs.nixfmt-rs
        ];
      }
      ''
        find ${nixFiles} -name '*.nix' -print0 | xargs -0 nixfmt --check
        deadnix --fail ${nixFiles}
        touch "$out"
      '';

  # The port table says nothing that IANA does not.
  ports =
    let
      table = (import ./lib).ports;
      rows = lib.mapAttrsToList (name: row: "${row.iana or name} ${toString row.port}") table;
    in
    pkgs.runCommand "seed-ports" { } ''
      while read -r name port; do
        grep --quiet --extended-regexp "^$name[[:space:]]+$port/" ${pkgs.iana-etc}/etc/services || {
          echo "$name is not port $port in ${pkgs.iana-etc}" >&2
          exit 1
        }
      done <<'ROWS'
      ${lib.concatStringsSep "\n" rows}
      ROWS
      touch "$out"
    '';

  vmTests = lib.optionalAttrs pkgs.stdenv.hostPlatform.isx86_64 (
    import ./tests/vm { inherit pkgs mkSeed sops-nix; }
  );
in
lib.mapAttrs' (name: package: lib.nameValuePair "package-${name}" package) packages
// lib.mapAttrs' (name: package: {
  name = "version-${name}";
  value = saysItsVersion name package;
}) programs
// lib.mapAttrs' (name: test: lib.nameValuePair "vm-${name}" test) vmTests
// {
  inherit lint ports;
}
