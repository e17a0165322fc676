# The packages of the flake: programs, and the option reference.
{ pkgs }:
{
  seed-agent = pkgs.callPackage ../guest-agent/package.nix { };
  seed-shim = pkgs.callPackage ../host-shim/package.nix { };
  age-plugin-tpm = pkgs.callPackage ../age-tpm/package.nix { };
  option-reference = import ./options-doc.nix { inherit pkgs; };
}
