# The instance's certificate, as services use it: where its files are, and how OpenSSL opens a key that the TPM
# holds (a TSS2 PRIVATE KEY). A key that is an ordinary PEM file works alike. Enrolment is the platform's: who waits
# for the files is said by the units that need them.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.seed.tls;
  file =
    name: what:
    lib.mkOption {
      type = lib.types.path;
      default = "/seed/tls/${name}.pem";
      description = "${what}, as PEM. It is read when a service starts, never copied into the store.";
    };
in
{
  options.seed.tls = {
    enable = lib.mkOption {
      type = lib.types.bool;
      default = false;
      internal = true;
      description = "Whether a service uses the certificate.";
    };
    certificate = file "cert" "The instance's certificate";
    key = file "key" "Its private key, an ordinary one or one that the TPM holds";
    authority = file "ca" "The certificate of the authority that other instances' certificates are checked with";

    # What a unit gets that uses the key.
    unit = lib.mkOption {
      type = lib.types.raw;
      internal = true;
      readOnly = true;
      description = "Settings of a unit that opens the key.";
    };
  };

  config.seed.tls.unit = {
    environment = {
      OPENSSL_CONF = pkgs.writeText "seed-openssl.cnf" ''
        openssl_conf = init
        [init]
        providers = providers
        [providers]
        default = default
        tpm2 = tpm2
        [default]
        activate = 1
        [tpm2]
        module = ${pkgs.tpm2-openssl}/lib/ossl-modules/tpm2.so
        activate = 1
      '';
      TPM2OPENSSL_TCTI = "device:/dev/tpmrm0";
    };
    unitConfig.AssertPathExists = [
      cfg.certificate
      cfg.key
      cfg.authority
    ];
    serviceConfig = {
      # Of all devices the TPM alone.
      PrivateDevices = lib.mkForce false;
      DevicePolicy = "closed";
      DeviceAllow = [ "/dev/tpmrm0 rw" ];
      SupplementaryGroups = [ config.security.tpm2.tssGroup ];
    };
  };

  # The group that may use the TPM's resource manager.
  config.security.tpm2.enable = lib.mkIf cfg.enable true;
}
