# The seed shell: its user, its group, which gets the management sockets and the logs, and its service.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.seed.host.shell;
  group = "seed";
  stateDir = "/var/lib/seed-shell";
  format = pkgs.formats.toml { };
  # The program itself says what is wrong, at build time.
  file = pkgs.runCommand "seed-shell.toml" { } ''
    cp ${format.generate "seed-shell.toml" cfg.settings} "$out"
    ${lib.getExe cfg.package} --config "$out" --check-config
  '';
  listen = cfg.settings.listen or [ "[::]:22" ];
  onSshPort = lib.any (address: lib.hasSuffix ":22" address) listen;
in
{
  config = lib.mkIf (config.seed.host.enable && cfg.enable) {
    assertions = [
      {
        assertion =
          !(onSshPort && config.services.openssh.enable && lib.elem 22 config.services.openssh.ports);
        message = ''
          seed.host.shell and services.openssh both listen on port 22.
          Move one of them: services.openssh.ports = [ 2222 ]; or seed.host.shell.settings.listen = [ "[::]:2222" ];
        '';
      }
    ];
    environment.systemPackages = [ cfg.package ];
    environment.etc."seed/shell.toml".source = file;
    seed.host.settings.group = lib.mkDefault group;
    networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall (
      map (address: lib.toInt (lib.last (lib.splitString ":" address))) listen
    );

    users.groups.${group} = { };
    users.users.seed-shell = {
      isSystemUser = true;
      inherit group;
    };

    systemd.services.seed-shell = {
      description = "SSH front door to Seed instances";
      wantedBy = [ "multi-user.target" ];
      after = [ "network.target" ];
      restartTriggers = [ file ];
      serviceConfig = {
        ExecStart = "${lib.getExe cfg.package} serve";
        User = "seed-shell";
        Group = group;
        StateDirectory = baseNameOf stateDir;
        StateDirectoryMode = "0700";
        UMask = "0077";
        Restart = "on-failure";
        LimitNOFILE = 65536;
        AmbientCapabilities = lib.optional onSshPort "CAP_NET_BIND_SERVICE";
        CapabilityBoundingSet = lib.optional onSshPort "CAP_NET_BIND_SERVICE";
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        NoNewPrivileges = true;
        PrivateDevices = true;
        PrivateTmp = true;
        ProtectClock = true;
        ProtectControlGroups = true;
        ProtectHome = true;
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectProc = "invisible";
        ProtectSystem = "strict";
        RemoveIPC = true;
        RestrictAddressFamilies = [
          "AF_INET"
          "AF_INET6"
          "AF_UNIX"
        ];
        RestrictNamespaces = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        SystemCallArchitectures = "native";
        SystemCallFilter = [
          "@system-service"
          "~@privileged"
          "~@resources"
        ];
      };
    };
  };
}
