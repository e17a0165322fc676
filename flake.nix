{
  description = "Seed: NixOS instances in microVMs that look after themselves";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forEachSystem = f: nixpkgs.lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
    in
    {
      # The programs that `cargo xtask setup` installs with apt on Debian.
      devShells = forEachSystem (pkgs: {
        default = pkgs.mkShell {
          packages = [
            pkgs.age
            pkgs.cargo
            pkgs.clippy
            pkgs.cpio
            pkgs.dbus
            pkgs.e2fsprogs
            pkgs.mmdebstrap
            pkgs.pkg-config
            pkgs.qemu_kvm
            pkgs.rustc
            pkgs.rustfmt
            pkgs.swtpm
            pkgs.vhost-device-vsock
            pkgs.virtiofsd
            pkgs.zstd
          ];
        };
      });

      formatter = forEachSystem (pkgs: pkgs.nixfmt-rfc-style);
    };
}
