{
  description = "Seed: NixOS instances in microVMs that look after themselves";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
  inputs.sops-nix.url = "github:Mic92/sops-nix";
  inputs.sops-nix.inputs.nixpkgs.follows = "nixpkgs";

  # Wiring only: what these are is said where they are.
  outputs =
    {
      self,
      nixpkgs,
      sops-nix,
    }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forEachSystem = f: lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
      seedLib = import ./nixos-guest-module/flake-lib.nix { inherit nixpkgs sops-nix; };
    in
    {
      lib = removeAttrs seedLib [ "current" ];

      # `pool`'s functions: `(current arch).condense`, `.role`, `.channel`.
      inherit (seedLib) current;

      nixosModules = {
        default = ./nixos-guest-module;
        guest = ./nixos-guest-module;
        host = ./nixos-guest-module/host;
      };

      overlays.default = import ./nixos-guest-module/overlay.nix;

      packages = forEachSystem (
        pkgs:
        import ./nixos-guest-module/packages.nix {
          inherit pkgs;
          inherit (seedLib) mkSeed;
        }
      );

      checks = forEachSystem (
        pkgs:
        import ./nixos-guest-module/checks.nix {
          inherit pkgs sops-nix;
          inherit (seedLib) mkSeed;
          packages = self.packages.${pkgs.stdenv.hostPlatform.system};
        }
      );

      # Programs by name, for `nix run`.
      apps = forEachSystem (
        pkgs:
        lib.mapAttrs
          (_: package: {
            type = "app";
            program = lib.getExe package;
            meta = { inherit (package.meta) description; };
          })
          (
            lib.filterAttrs (
              _: package: package.meta ? mainProgram
            ) self.packages.${pkgs.stdenv.hostPlatform.system}
          )
      );

      devShells = forEachSystem (pkgs: {
        default = import ./nixos-guest-module/dev-shell.nix { inherit pkgs; };
      });

      formatter = forEachSystem (pkgs: pkgs.nixfmt-rs);

      templates = import ./templates;
    };
}
