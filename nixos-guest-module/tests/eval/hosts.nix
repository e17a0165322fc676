# The host module, the packages and the VM tests.
{
  lib,
  drv,
  failing,
  hardware,
  nixosSystem,
  says,
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
  k3sHost =
    module:
    host {
      imports = [ module ];
      seed.host.k3s.enable = true;
      services.k3s.enable = true;
    };
  k3s = k3sHost { };
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
    "containerd has the runtime as the operator's page tells it" = {
      got =
        plain.virtualisation.containerd.settings.plugins."io.containerd.grpc.v1.cri".containerd.runtimes.seed;
      want = builtins.fromJSON (builtins.readFile ../golden/runtime.json);
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
        (host {
          seed.host.settings.enable_annotations = [
            "kernel_params"
            "hypervisor_name"
          ];
        }).seed.host.containerd.podAnnotations;
      want = [
        "seed.loom.farm/*"
        "io.katacontainers.config.hypervisor.kernel_params"
        "io.katacontainers.config.runtime.hypervisor_name"
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
    "the kernel has the modules for taps and for vhost" = {
      got = lib.subtractLists plain.boot.kernelModules [
        "tun"
        "vhost_net"
        "vhost_vsock"
      ];
      want = [ ];
    };
    "state is root's alone, but for the group that the settings name" =
      let
        folders =
          config:
          lib.mapAttrs (
            _: folder: "${folder.d.group} ${folder.d.mode}"
          ) config.systemd.tmpfiles.settings."10-seed";
      in
      {
        got = [
          (folders plain)
          (folders shell)
        ];
        want = [
          {
            "/run/seed" = "root 0700";
            "/var/lib/seed" = "root 0700";
          }
          {
            "/run/seed" = "seed 2751";
            "/var/lib/seed" = "root 0711";
          }
        ];
      };
    "shim and seed shell check their files where they are made" = {
      got = [
        (says plain.environment.etc."seed/shim.toml".source.buildCommand
          "containerd-shim-seed-v2 -check-config \"$out\""
        )
        (says shell.environment.etc."seed/shell.toml".source.buildCommand
          "--config \"$out\" --check-config"
        )
      ];
      want = [
        true
        true
      ];
    };
    "people and containerd find the programs" = {
      got = map (lib.elem plain.seed.host.package) [
        plain.environment.systemPackages
        plain.systemd.services.containerd.path
      ];
      want = [
        true
        true
      ];
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
    "two servers of SSH on one port are refused, and apart they are not" = {
      got =
        map
          (
            port:
            map (lib.hasInfix "services.openssh.ports = [ 2222 ]") (
              failing (host {
                seed.host.shell.enable = true;
                services.openssh.enable = true;
                services.openssh.ports = [ port ];
              })
            )
          )
          [
            22
            2222
          ];
      want = [
        [ true ]
        [ ]
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
    # The table of version 2, as the template is of that version.
    "k3s has the runtime that containerd has elsewhere, and its class" = {
      got = {
        inherit
          (builtins.fromTOML (
            lib.removePrefix "{{ template \"base\" . }}\n" k3s.services.k3s.containerdConfigTemplate
          ))
          plugins
          ;
        class = k3s.services.k3s.manifests.seed-runtime-class.content;
        shim = lib.elem plain.seed.host.package k3s.systemd.services.k3s.path;
        containerd = k3s.virtualisation.containerd.enable;
      };
      want = {
        plugins."io.containerd.grpc.v1.cri".containerd.runtimes.seed =
          plain.virtualisation.containerd.settings.plugins."io.containerd.grpc.v1.cri".containerd.runtimes.seed;
        class = {
          apiVersion = "node.k8s.io/v1";
          kind = "RuntimeClass";
          metadata.name = "seed";
          handler = "seed";
          overhead.podFixed.memory = "256Mi";
        };
        shim = true;
        containerd = false;
      };
    };
    "the class says what the options do" = {
      got =
        (k3sHost {
          seed.host.containerd.runtimeName = "vm";
          seed.host.k3s.overhead = {
            cpu = "250m";
            memory = "320Mi";
          };
        }).services.k3s.manifests.seed-runtime-class.content;
      want = {
        apiVersion = "node.k8s.io/v1";
        kind = "RuntimeClass";
        metadata.name = "vm";
        handler = "vm";
        overhead.podFixed = {
          cpu = "250m";
          memory = "320Mi";
        };
      };
    };
    "a node that is no server gets the class from one" =
      let
        node = (
          k3sHost {
            services.k3s = {
              role = "agent";
              serverAddr = "https://server:6443";
              tokenFile = "/srv/token";
            };
          }
        );
      in
      {
        got = [
          node.services.k3s.manifests
          node.warnings
        ];
        want = [
          { }
          [ ]
        ];
      };
    "a template of an owner's own names the runtime" = {
      got =
        map
          (
            template:
            failing (k3sHost {
              services.k3s.containerdConfigTemplate = template;
            })
          )
          [
            "{{ template \"base\" . }}\n"
            "[x]\n${k3s.seed.host.k3s.containerdConfig}"
          ];
      want = [
        [
          "services.k3s.containerdConfigTemplate does not name the runtime seed. Let it end with \${config.seed.host.k3s.containerdConfig}."
        ]
        [ ]
      ];
    };
    "and a machine runs k3s" = {
      got = failing (k3sHost {
        services.k3s.enable = lib.mkForce false;
      });
      want = [
        "seed.host.k3s.enable is set, but this machine runs no k3s. Set services.k3s.enable = true; or remove the option."
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
