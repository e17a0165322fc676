# The host module, the packages and the VM tests.
{
  lib,
  drv,
  hardware,
  nixosSystem,
  self,
  yes,
  ...
}:
let
  arch = "x86_64-linux";
  machine =
    module:
    (nixosSystem {
      modules = [
        module
        hardware
      ];
    }).config;
  host =
    module:
    machine {
      imports = [
        self.nixosModules.host
        module
      ];
      seed.host.enable = true;
    };
  plain = host { };
  k3s = host {
    seed.host.k3s.enable = true;
    services.k3s.enable = true;
  };
  shell = host { seed.host.shell.enable = true; };
in
{
  host = {
    "a host evaluates" = yes (drv plain.system.build.toplevel);
    "its settings are the shim's" = {
      got = lib.mapAttrsRecursive (
        _: value: if lib.isList value then value else baseNameOf value
      ) plain.seed.host.settings;
      want = builtins.fromJSON (builtins.readFile ../golden/shim.json);
    };
    "containerd has the runtime, with an allow-list" = {
      got =
        let
          runtime =
            plain.virtualisation.containerd.settings.plugins."io.containerd.grpc.v1.cri".containerd.runtimes.seed;
        in
        [
          runtime.runtime_type
          runtime.pod_annotations
        ];
      want = [
        "io.containerd.seed.v2"
        [
          "seed.loom.farm/*"
          "io.katacontainers.config.hypervisor.default_vcpus"
          "io.katacontainers.config.hypervisor.default_memory"
        ]
      ];
    };
    "Cloud Hypervisor in QEMU's place" =
      let
        inherit ((host { seed.host.vmm = "cloud-hypervisor"; }).seed.host) settings;
      in
      {
        got = [
          settings.vmm
          (baseNameOf settings.programs.cloud_hypervisor)
          (settings.programs ? qemu)
        ];
        want = [
          "cloud-hypervisor"
          "cloud-hypervisor"
          false
        ];
      };
    "the allow-list of containerd is the shim's" = {
      got =
        (host { seed.host.settings.enable_annotations = [ "kernel_params" ]; })
        .seed.host.containerd.podAnnotations;
      want = [
        "seed.loom.farm/*"
        "io.katacontainers.config.hypervisor.kernel_params"
      ];
    };
    "a machine of another architecture is refused" = {
      got =
        (builtins.tryEval
          (machine {
            imports = [ self.nixosModules.host ];
            seed.host.enable = true;
            nixpkgs.hostPlatform = lib.mkForce "aarch64-linux";
          }).system.build.toplevel.drvPath
        ).success;
      want = false;
    };
    "the kernel has the devices that the shim opens" = {
      got = lib.subtractLists plain.boot.kernelModules [
        "tun"
        "vhost_net"
        "vhost_vsock"
      ];
      want = [ ];
    };
    "state is root's alone" = {
      got = plain.systemd.tmpfiles.settings."10-seed"."/var/lib/seed".d.mode;
      want = "0700";
    };
    "the seed shell has a user, and its group the sockets" = {
      got = [
        (drv shell.system.build.toplevel)
        shell.seed.host.settings.group
        shell.users.users.seed-shell.group
        shell.systemd.services.seed-shell.serviceConfig.Group
      ];
      want = [
        true
        "seed"
        "seed"
        "seed"
      ];
    };
    "an unused host module changes nothing" = {
      got =
        (machine self.nixosModules.host).system.build.toplevel.drvPath == (machine { })
        .system.build.toplevel.drvPath;
      want = true;
    };
  };
  k3s = {
    "k3s evaluates" = yes (drv k3s.system.build.toplevel);
    "k3s has the runtime and its class" = {
      got = [
        (lib.hasInfix "runtimes.'seed'" k3s.services.k3s.containerdConfigTemplate)
        k3s.services.k3s.manifests.seed-runtime-class.content.handler
      ];
      want = [
        true
        "seed"
      ];
    };
  };
  option-reference."OPTIONS.md is what the options say" = {
    got = self.packages.${arch}.option-reference.text;
    want = builtins.readFile ../../OPTIONS.md;
  };
  packages = lib.mapAttrs (_: package: yes (drv package)) self.packages.${arch};
  checks = lib.mapAttrs (_: check: yes (drv check)) self.checks.${arch};
  shell."the dev shell" = yes (drv self.devShells.${arch}.default);
}
