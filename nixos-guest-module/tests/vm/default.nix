# VM tests, one behaviour a file. They want KVM:
#   nix build .#checks.x86_64-linux.vm-guest
{
  pkgs,
  mkSeed,
  sops-nix,
}:
let
  guest = {
    imports = [
      sops-nix.nixosModules.sops
      ../../default.nix
    ];
  };
  run = file: pkgs.testers.runNixOSTest (import file { inherit guest mkSeed; });
in
{
  guest = run ./guest.nix;
  secrets = run ./secrets.nix;
  instance = run ./instance.nix;
}
