# The host module: what a NixOS machine needs to run instances, by `seed` and by containerd.
{
  imports = [
    ./options.nix
    ./shell.nix
    ./shim.nix
    ./containerd.nix
    ./k3s.nix
  ];
}
