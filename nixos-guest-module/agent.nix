# The agent's units. They are written once, in guest-agent/systemd, and read from there; here are only the paths
# that differ on NixOS and the order with units that only NixOS has.
{
  config,
  lib,
  ...
}:
let
  inherit (import ./lib) unitFile;
  cfg = config.seed.agent;
  unit = unitFile.parse (builtins.readFile ../guest-agent/systemd/seed-agent.service);
  kata = unitFile.parse (builtins.readFile ../guest-agent/systemd/kata-containers.target);
  ordering = [
    "After"
    "Before"
    "Wants"
    "Description"
  ];
in
{
  systemd.services.seed-agent = {
    description = lib.head unit.Unit.Description;
    after = unitFile.unitNames unit.Unit.After;
    # tmpfiles.d may name folders inside volumes, so volumes are mounted first.
    before = unitFile.unitNames unit.Unit.Before ++ [ "systemd-tmpfiles-setup.service" ];
    wants = unitFile.unitNames unit.Unit.Wants;
    wantedBy = unitFile.unitNames unit.Install.WantedBy;
    unitConfig = unitFile.settings (removeAttrs unit.Unit ordering);
    # Making, checking and growing volumes of every kind that boot.supportedFilesystems names.
    path = config.system.fsPackages;
    # A new closure is a new VM; in a VM that does switch, the agent keeps what it holds.
    restartIfChanged = false;
    stopIfChanged = false;
    serviceConfig = unitFile.settings unit.Service // {
      ExecStart = lib.getExe cfg.package;
    };
  };

  # What a Kata shim boots.
  systemd.targets.kata-containers = {
    description = lib.head kata.Unit.Description;
    requires = unitFile.unitNames kata.Unit.Requires;
    after = unitFile.unitNames kata.Unit.After;
    unitConfig = { inherit (unitFile.settings kata.Unit) AllowIsolate; };
  };

  # `age`, `sops` and people find the plugin by its name.
  environment.systemPackages = [ cfg.tpmPlugin ];
}
