# The shim as a runtime of containerd: containerd finds `containerd-shim-seed-v2` in its PATH by the
# runtime's type.
{
  config,
  lib,
  ...
}:
let
  cfg = config.seed.host;
in
{
  config = lib.mkIf (cfg.enable && cfg.containerd.enable) {
    virtualisation.containerd.enable = true;
    virtualisation.containerd.settings.plugins."io.containerd.grpc.v1.cri".containerd.runtimes.${cfg.containerd.runtimeName} =
      cfg.containerd.runtime;
    systemd.services.containerd.path = [ cfg.package ];
  };
}
