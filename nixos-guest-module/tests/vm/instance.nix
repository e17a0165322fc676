# A host with the host module runs an instance of mkSeed: `seed run`, status, journal, exec, restart.
{ mkSeed, ... }:
let
  instance = mkSeed {
    name = "web";
    module = {
      seed.storage.data = {
        size = "64Mi";
        user = "app";
        group = "app";
      };
      users.users.app = {
        isSystemUser = true;
        group = "app";
      };
      users.groups.app = { };
      systemd.services.hello = {
        wantedBy = [ "multi-user.target" ];
        serviceConfig.Type = "oneshot";
        serviceConfig.EnvironmentFile = "/run/seed/env";
        script = "echo \"hello from $GREETER\"";
      };
    };
  };
in
{
  name = "seed-instance";
  globalTimeout = 900;

  nodes.host = {
    imports = [ ../../host ];
    seed.host.enable = true;
    # The inner VM has no KVM unless the outer one nests it.
    seed.host.settings.accel = "auto";
    virtualisation = {
      cores = 2;
      memorySize = 3072;
      diskSize = 4096;
      additionalPaths = [
        instance.root
        instance.toplevel
      ];
    };
  };

  testScript = ''
    import json

    host.wait_for_unit("multi-user.target")
    with subtest("it boots"):
        host.succeed(
            "seed run ${instance.root} --toplevel ${instance.toplevel} --env GREETER=nix >&2", timeout=600
        )
        status = json.loads(host.succeed("seed status web --json"))
        assert status["stage"] == "running", status
    with subtest("its journal comes out"):
        host.wait_until_succeeds("seed logs web | grep 'hello from nix'", timeout=60)
    with subtest("commands run in it, and their status comes back"):
        host.succeed("seed exec web -- ${instance.config.system.path}/bin/true")
        host.fail("seed exec web -- ${instance.config.system.path}/bin/false")
        host.succeed("seed exec web -- ${instance.config.system.path}/bin/touch /seed/storage/data/mark")
    with subtest("the identity and the volume outlive a restart"):
        key = host.succeed("seed keys web")
        host.succeed("seed restart web >&2", timeout=600)
        assert key == host.succeed("seed keys web")
        host.succeed("seed exec web -- ${instance.config.system.path}/bin/test -e /seed/storage/data/mark")
    with subtest("it ends"):
        host.succeed("seed stop web >&2")
        host.succeed("seed rm web --yes >&2")
  '';
}
