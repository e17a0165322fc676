# An identity that the TPM holds, and a secret of sops-nix: at the first boot there is no secret yet, which is a
# clear message and no failed boot; at the second it is open before services start.
{ guest, ... }:
{
  name = "seed-secrets";
  globalTimeout = 300;

  nodes.machine =
    { pkgs, ... }:
    {
      imports = [ guest ];
      seed.name = "machine";
      # Encrypted inside the test, since nobody knows the TPM's key before.
      sops.validateSopsFiles = false;
      sops.defaultSopsFile = "/var/lib/secrets.json";
      sops.defaultSopsFormat = "json";
      sops.secrets.api-key = { };
      systemd.services.app = {
        wantedBy = [ "multi-user.target" ];
        serviceConfig.Type = "oneshot";
        serviceConfig.RemainAfterExit = true;
        script = "test \"$(cat /run/secrets/api-key)\" = open-sesame";
      };
      environment.systemPackages = [ pkgs.sops ];
      virtualisation.tpm.enable = true;
    };

  testScript = ''
    machine.wait_for_unit("seed-agent.service")
    with subtest("the first boot makes an identity and goes on without the secret"):
        machine.wait_for_unit("multi-user.target")
        mode = machine.succeed("stat -c %a /seed/tpm/age-identity").strip()
        assert mode == "600", mode
        machine.succeed("systemctl is-failed sops-install-secrets.service")
    identity = machine.succeed("grep -v '^#' /seed/tpm/age-identity")
    with subtest("a secret is encrypted to it"):
        machine.succeed(
            "recipient=$(grep -o 'age1tpm1[a-z0-9]*' /seed/tpm/age-identity) && "
            "echo '{\"api-key\": \"open-sesame\"}' > /tmp/plain.json && "
            "sops --encrypt --age \"$recipient\" /tmp/plain.json > /var/lib/secrets.json"
        )
        machine.fail("grep open-sesame /var/lib/secrets.json")
    with subtest("the second boot has the same identity and opens the secret"):
        machine.shutdown()
        machine.start()
        machine.wait_for_unit("app.service")
        assert identity == machine.succeed("grep -v '^#' /seed/tpm/age-identity")
        machine.succeed("systemctl is-active sops-install-secrets.service")
  '';
}
