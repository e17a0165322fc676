# What is wrong, each with the way out. The sentences come from ./lib; what needs the rest of NixOS is here.
{ config, lib, ... }:
{
  assertions =
    map (message: {
      assertion = false;
      inherit message;
    }) config.seed.problems
    ++ [
      {
        assertion = !config.boot.isContainer;
        message = "boot.isContainer is set, but an instance is a virtual machine with a kernel of its own. Remove boot.isContainer; closures stay small without it.";
      }
      {
        assertion = config.boot.isContainer || config.boot.initrd.systemd.enable;
        message = "boot.initrd.systemd.enable is off, but the root is mounted and the system found by systemd in the initrd. Remove the setting.";
      }
      {
        assertion = config.services.userborn.enable || config.systemd.sysusers.enable;
        message = "Neither userborn nor systemd-sysusers makes the users, so they come after the agent, which needs them for seed.storage. Remove services.userborn.enable = false;";
      }
      {
        assertion = lib.hasAttrByPath [ "sops" ] config -> config.sops.useSystemdActivation;
        message = "sops.useSystemdActivation is off, so secrets would be opened before the agent brings the key. Remove the setting.";
      }
    ];
}
