# `nix run <this flake>#check [FLAKE]`: an owner's whole flake, checked and printed as the platform reads it. Nothing is
# built. The Nix is the caller's.
{ pkgs }:
pkgs.writeShellApplication {
  name = "check";
  text = ''
    flake=''${1:-.}
    case $flake in
      . | ./* | .. | ../* | /*) flake=$(realpath -- "$flake") ;;
    esac
    SEED_FLAKE=$flake exec nix --extra-experimental-features 'nix-command flakes' eval --impure --json \
      --expr '(import ${./lib}).flake.view (builtins.getFlake (builtins.getEnv "SEED_FLAKE"))'
  '';
  # One command has nothing to check.
  checkPhase = "";
  meta.description = "Checks an owner's flake as a whole, and prints what the platform reads of it";
}
