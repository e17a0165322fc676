# The instance's certificate from the platform: a unit that fetches it where the platform names an authority
# (SEED_EST_URL), and a timer that starts it again. What it does is in enrol.sh.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.seed.tls;
  enrol = pkgs.writeShellApplication {
    name = "seed-tls-enrol";
    runtimeInputs = [
      config.systemd.package
      pkgs.coreutils
      pkgs.curl
      pkgs.gnused
      pkgs.openssl
    ];
    text = builtins.readFile ./enrol.sh;
    # ShellCheck's next version may know more, and no guest's build is to wait for it.
    checkPhase = "";
  };
in
{
  options.seed.tls.enrolment = {
    enable = lib.mkOption {
      type = lib.types.bool;
      default = true;
      description = ''
        Whether the certificate is fetched from the platform, by EST from the address in `SEED_EST_URL`, with a key that the TPM
        holds. Without it the files are an owner's own to bring.
      '';
    };
    authority = lib.mkOption {
      type = lib.types.nullOr lib.types.path;
      default = null;
      example = "/etc/ssl/platform.pem";
      description = ''
        Certificates, as PEM, that the enrolment server's own is checked with. Without it those that the system
        trusts.
      '';
    };
    trustDomain = lib.mkOption {
      type = lib.types.strMatching "[a-z0-9._-]+";
      default = "seed.loom.farm";
      description = "The first part of the SPIFFE name that is asked for, `spiffe://<domain>/<namespace>/<instance>`.";
    };
  };

  config = lib.mkIf (cfg.enable && cfg.enrolment.enable) {
    systemd.services.seed-tls-enrol = {
      description = "The instance's certificate from the platform";
      wantedBy = [ "multi-user.target" ];
      after = [ "network.target" ];
      environment = cfg.openssl // {
        SEED_TLS_AGENT = lib.getExe config.seed.agent.package;
        SEED_TLS_KEY = cfg.key;
        SEED_TLS_CERTIFICATE = cfg.certificate;
        SEED_TLS_AUTHORITY = cfg.authority;
        SEED_TLS_EST_AUTHORITY = cfg.enrolment.authority;
        SEED_TLS_TRUST_DOMAIN = cfg.enrolment.trustDomain;
        SEED_TLS_USERS = lib.concatStringsSep " " cfg.users;
      };
      serviceConfig = cfg.device // {
        Type = "oneshot";
        EnvironmentFile = "-/run/seed/env";
        ExecStart = lib.getExe enrol;
        TimeoutStartSec = 300;
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        NoNewPrivileges = true;
        PrivateTmp = true;
        ProtectHome = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectSystem = "full";
        RestrictAddressFamilies = [
          "AF_INET"
          "AF_INET6"
          "AF_UNIX"
        ];
        RestrictNamespaces = true;
        SystemCallArchitectures = "native";
      };
    };
    # Where the platform did not answer, and when time is over.
    systemd.timers.seed-tls-enrol = {
      wantedBy = [ "timers.target" ];
      timerConfig = {
        OnUnitInactiveSec = "10min";
        RandomizedDelaySec = "1min";
      };
    };
  };
}
