# A small virtual machine: what it boots with, and what it does without. Everything is a default, so that an
# owner's module wins.
{
  config,
  lib,
  modulesPath,
  ...
}:
{
  imports = [ (modulesPath + "/profiles/minimal.nix") ];

  networking.hostName = lib.mkDefault config.seed.name;
  system.stateVersion = lib.mkDefault config.system.nixos.release;

  # The host boots the kernel directly (boot.json): there is nothing to install a loader on.
  boot.loader.grub.enable = lib.mkDefault false;
  boot.initrd.systemd.enable = lib.mkDefault true;
  boot.initrd.includeDefaultModules = lib.mkDefault false;
  boot.enableContainers = lib.mkDefault false;

  # Users are made by a unit before the agent, not by an activation script (which nixos-init does not run).
  services.userborn.enable = lib.mkDefault true;

  # The closure is replaced as a whole: nothing is built or switched inside.
  nix.enable = lib.mkDefault false;
  nixpkgs.flake.setNixPath = lib.mkDefault false;
  nixpkgs.flake.setFlakeRegistry = lib.mkDefault false;
  system.switch.enable = lib.mkDefault false;
  system.disableInstallerTools = lib.mkDefault true;
  documentation.man.man-db.enable = lib.mkDefault false;

  programs.nano.enable = lib.mkDefault false;
  console.enable = lib.mkDefault false;

  # Nothing in a VM without a screen, firmware, disks of its own or a clock battery.
  fonts.fontconfig.enable = lib.mkDefault false;
  hardware.enableRedistributableFirmware = lib.mkDefault false;
  boot.bcache.enable = lib.mkDefault false;
  boot.swraid.enable = lib.mkDefault false;
  boot.kexec.enable = lib.mkDefault false;
  services.lvm.enable = lib.mkDefault false;
  powerManagement.enable = lib.mkDefault false;
  security.polkit.enable = lib.mkDefault false;

  # The agent is the one user of the TPM here; systemd's measurements and its own root key only cost time.
  systemd.tpm2.enable = lib.mkDefault false;
  boot.initrd.systemd.tpm2.enable = lib.mkDefault false;

  # The console is the kernel's; people come in by exec, so nobody is locked out of a closure without a login.
  users.allowNoPasswordLogin = lib.mkDefault true;
  systemd.enableEmergencyMode = lib.mkDefault false;
  boot.initrd.systemd.emergencyAccess = lib.mkDefault false;
  boot.kernelParams = [
    # A panic ends the VM at once.
    "panic=-1"
    "systemd.show_status=0"
    "systemd.getty_auto=no"
    "systemd.tty.term.console=dumb"
  ];
  boot.consoleLogLevel = lib.mkDefault 4;
}
