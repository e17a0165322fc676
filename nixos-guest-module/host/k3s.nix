# The shim as a runtime of k3s, which runs a containerd of its own. NixOS puts the template where k3s takes it for one
# of configuration version 2, whatever its containerd is, so the runtime's table has that version's name: beside
# the table of version 3 containerd drops those of version 2, and k3s' own runtimes are such.
{
  config,
  lib,
  ...
}:
let
  cfg = config.seed.host;
  inherit (config.services) k3s;
  name = cfg.containerd.runtimeName;
  table = ''plugins."io.containerd.grpc.v1.cri".containerd.runtimes."${name}"'';
  # Strings and lists of them are written alike in JSON and in TOML.
  settings =
    values:
    lib.concatStrings (lib.mapAttrsToList (key: value: "  ${key} = ${builtins.toJSON value}\n") values);
in
{
  options.seed.host.k3s = {
    containerdConfig = lib.mkOption {
      type = lib.types.str;
      readOnly = true;
      default = ''
        [${table}]
        ${settings (removeAttrs cfg.containerd.runtime [ "options" ])}
        [${table}.options]
        ${settings cfg.containerd.runtime.options}'';
      defaultText = lib.literalMD "the tables of the runtime";
      description = "What {option}`services.k3s.containerdConfigTemplate` has to end with, where it is an owner's own.";
    };
    overhead = lib.mkOption {
      type = lib.types.attrsOf lib.types.str;
      default.memory = "256Mi";
      example = {
        cpu = "250m";
        memory = "320Mi";
      };
      description = ''
        What a pod costs beside what its guest has, as the RuntimeClass says it (`overhead.podFixed`). It is added to the pod's
        limits: without room for QEMU and its helpers a guest that uses all of its memory is killed. `seed status` shows
        what it comes to; what {option}`seed.host.settings` or an annotation gives writes to the root (`root_writes_mib`) is beside it.
      '';
    };
  };

  config = lib.mkIf (cfg.enable && cfg.k3s.enable) {
    assertions = [
      {
        assertion = k3s.enable;
        message = "seed.host.k3s.enable is set, but this machine runs no k3s. Set services.k3s.enable = true; or remove the option.";
      }
      {
        assertion = lib.hasInfix cfg.k3s.containerdConfig (toString k3s.containerdConfigTemplate);
        message = "services.k3s.containerdConfigTemplate does not name the runtime ${name}. Let it end with \${config.seed.host.k3s.containerdConfig}.";
      }
    ];
    services.k3s = {
      containerdConfigTemplate = lib.mkDefault "{{ template \"base\" . }}\n\n${cfg.k3s.containerdConfig}";
      # Servers hand it to all nodes.
      manifests = lib.mkIf (k3s.role == "server") {
        seed-runtime-class.content = {
          apiVersion = "node.k8s.io/v1";
          kind = "RuntimeClass";
          metadata = { inherit name; };
          handler = name;
          overhead.podFixed = cfg.k3s.overhead;
        };
      };
    };
    systemd.services.k3s.path = [ cfg.package ];
    # k3s brings its own.
    seed.host.containerd.enable = lib.mkDefault false;
  };
}
