# The packages of the flake: programs, the option reference, and how large the smallest instance is.
{ pkgs, mkSeed }:
{
  seed-agent = pkgs.callPackage ../guest-agent/package.nix { };
  seed-shim = pkgs.callPackage ../host-shim/package.nix { };
  seed-shell = pkgs.callPackage ../seed-shell/package.nix { };
  age-plugin-tpm = pkgs.callPackage ../age-tpm/package.nix { };
  closure-report = import ./closure-report.nix {
    inherit pkgs;
    instance = mkSeed {
      name = "small";
      system = pkgs.stdenv.hostPlatform.system;
      module = { };
    };
  };
  option-reference = import ./options-doc.nix { inherit pkgs; };
}
