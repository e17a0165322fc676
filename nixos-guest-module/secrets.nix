# Secrets with sops-nix: opened by a unit, after the agent has brought the age identity, with the plugin that
# talks to the TPM. Where sops-nix is not imported there is nothing to set.
{
  config,
  lib,
  options,
  ...
}:
let
  identity = "/seed/tpm/age-identity";
  agent = [ "seed-agent.service" ];
  # Only a unit that exists may be ordered by `requires`.
  declared = config.sops.secrets != { };
  early = lib.any (secret: secret.neededForUsers) (lib.attrValues config.sops.secrets);
  late = lib.any (secret: !secret.neededForUsers) (lib.attrValues config.sops.secrets);
in
{
  config = lib.optionalAttrs (options ? sops) {
    sops.useSystemdActivation = lib.mkDefault true;
    sops.age.keyFile = lib.mkDefault identity;
    sops.age.plugins = [ config.seed.agent.tpmPlugin ];
    # No other key: a guest's SSH host keys are new with each root.
    sops.age.sshKeyPaths = lib.mkDefault [ ];
    sops.gnupg.sshKeyPaths = lib.mkDefault [ ];

    systemd.services.sops-install-secrets = lib.mkIf (declared && late) {
      requires = agent;
      after = agent;
      # Secrets are in place before ordinary services start.
      before = [ "sysinit.target" ];
    };

    assertions = [
      {
        assertion = !(declared && early);
        message = "sops.secrets has secrets with neededForUsers, which are opened before users exist; the agent that brings the key comes after users. Set hashedPassword in users.users, or remove neededForUsers.";
      }
    ];
  };
}
