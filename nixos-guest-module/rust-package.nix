# One program of the workspace. Its tests are not run here: they want swtpm, loop devices and a journal, and
# `cargo xtask test` runs them all.
{ lib, rustPlatform }:
let
  root = ../.;
  inherit (lib.importTOML ../Cargo.toml) workspace;
  # Nix files change no program. Prose may: crate documentation includes it.
  isSource = file: !file.hasExt "nix";
in
{
  pname,
  crate ? pname,
  mainProgram,
  description,
  platforms ? lib.platforms.linux,
  postInstall ? "",
}:
rustPlatform.buildRustPackage {
  inherit pname postInstall;
  inherit (workspace.package) version;
  src = lib.fileset.toSource {
    inherit root;
    fileset = lib.fileset.unions (
      [
        ../Cargo.toml
        ../Cargo.lock
      ]
      ++ map (member: lib.fileset.fileFilter isSource (root + "/${member}")) workspace.members
    );
  };
  cargoLock.lockFile = ../Cargo.lock;
  cargoBuildFlags = [
    "--package"
    crate
  ];
  doCheck = false;
  meta = {
    inherit description mainProgram platforms;
    license = lib.licenses.mit;
  };
}
