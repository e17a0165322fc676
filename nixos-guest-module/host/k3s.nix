# The shim as a runtime of k3s, which runs a containerd of its own.
{
  config,
  lib,
  ...
}:
let
  cfg = config.seed.host;
  name = cfg.containerd.runtimeName;
  quoted = lib.concatMapStringsSep ", " builtins.toJSON cfg.containerd.podAnnotations;
in
{
  config = lib.mkIf (cfg.enable && cfg.k3s.enable) {
    services.k3s = {
      containerdConfigTemplate = lib.mkDefault ''
        {{ template "base" . }}

        [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.'${name}']
          runtime_type = "io.containerd.seed.v2"
          pod_annotations = [${quoted}]
          container_annotations = [${quoted}]
          [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.'${name}'.options]
            ConfigPath = "/etc/seed/shim.toml"
      '';
      manifests.seed-runtime-class.content = {
        apiVersion = "node.k8s.io/v1";
        kind = "RuntimeClass";
        metadata = { inherit name; };
        handler = name;
      };
    };
    systemd.services.k3s.path = [ cfg.package ];
    # k3s brings its own.
    seed.host.containerd.enable = lib.mkDefault false;
  };
}
