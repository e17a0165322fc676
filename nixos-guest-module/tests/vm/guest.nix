# A guest without a host: it boots, and its volume belongs to its service at the first and the second boot.
{ guest, ... }:
{
  name = "seed-guest";
  globalTimeout = 300;

  nodes.machine =
    { lib, ... }:
    {
      imports = [ guest ];
      seed.name = "machine";
      seed.storage.data = {
        size = "64Mi";
        user = "app";
        group = "app";
        mode = "0750";
      };
      users.users.app = {
        isSystemUser = true;
        group = "app";
      };
      users.groups.app = { };
      systemd.services.app = {
        wantedBy = [ "multi-user.target" ];
        serviceConfig = {
          Type = "oneshot";
          User = "app";
        };
        script = "date >> /seed/storage/data/boots";
      };
      virtualisation.tpm.enable = true;
      virtualisation.emptyDiskImages = [
        {
          size = 64;
          driveConfig.deviceExtraOpts.serial = "data";
        }
      ];
      # The test's shell is on a console.
      systemd.enableEmergencyMode = lib.mkForce false;
    };

  testScript = ''
    def boots():
        return len(machine.succeed("cat /seed/storage/data/boots").splitlines())

    machine.wait_for_unit("multi-user.target")
    with subtest("the agent is up, and nothing failed"):
        machine.succeed("systemctl is-active seed-agent.service")
        machine.succeed("test -z \"$(systemctl --failed --quiet)\"")
    with subtest("the volume is mounted and belongs to its service"):
        machine.succeed("mountpoint /seed/storage/data")
        owner = machine.succeed("stat -c %U:%G:%a /seed/storage/data").strip()
        assert owner == "app:app:750", owner
        assert boots() == 1
    with subtest("what was written is there after a restart"):
        machine.shutdown()
        machine.start()
        machine.wait_for_unit("multi-user.target")
        assert boots() == 2
  '';
}
