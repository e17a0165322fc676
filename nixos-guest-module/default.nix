# The guest module: a NixOS system that runs as a Seed instance. A concern each; this file only imports.
{
  imports = [
    ./options.nix
    ./assertions.nix
    ./base.nix
    ./root.nix
    ./etc-overlay.nix
    ./network.nix
    ./agent.nix
    ./config-file.nix
    ./bootspec.nix
    ./users.nix
    ./secrets.nix
    ./journald.nix
    ./acme.nix
    ./shoot.nix
    ./image.nix
    ./services
  ];
}
