# The instance's certificate, as services use it: where its files are, and how OpenSSL opens a key that the TPM
# holds (a TSS2 PRIVATE KEY). A key that is an ordinary PEM file works alike. The files come by enrolment.nix or by an
# owner's own means; the units that need them say which one is missing and do not start.
#
# TLS wants a tpm2-openssl that exports no private key, as 1.3.0 does. By 1.1.1 OpenSSL takes the public half for the whole
# key and says "missing private key": requests are signed, since they ask for the provider, and no connection is made. So
# an older one is refused where the key is made in the TPM.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.seed.tls;
  oldestProvider = "1.3";
  file =
    name: what:
    lib.mkOption {
      type = lib.types.path;
      default = "/seed/tls/${name}.pem";
      description = "${what}, as PEM. It is read when a service starts, never copied into the store.";
    };
  internal =
    description:
    lib.mkOption {
      type = lib.types.raw;
      internal = true;
      readOnly = true;
      inherit description;
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

    users = lib.mkOption {
      type = lib.types.listOf lib.types.str;
      default = [ ];
      internal = true;
      description = "Units that are started when the certificate comes, and again when there is another.";
    };
    # What units get that open the key: the first two are parts of the third.
    openssl = internal "Environment in which OpenSSL opens the key.";
    device = internal "Settings of a service that uses the TPM.";
    unit = internal "Settings of a unit that uses the certificate.";
  };

  config.seed.tls = {
    openssl = {
      OPENSSL_CONF = "${./openssl.cnf}";
      SEED_TPM2_MODULE = "${pkgs.tpm2-openssl}/lib/ossl-modules/tpm2.so";
      TPM2OPENSSL_TCTI = "device:/dev/tpmrm0";
    };
    device = {
      # Of all devices the TPM alone.
      PrivateDevices = lib.mkForce false;
      DevicePolicy = "closed";
      DeviceAllow = [ "/dev/tpmrm0 rw" ];
      SupplementaryGroups = [ config.security.tpm2.tssGroup ];
    };
    unit = {
      after = [ "seed-tls-enrol.service" ];
      environment = cfg.openssl;
      unitConfig.AssertPathExists = [
        cfg.certificate
        cfg.key
        cfg.authority
      ];
      serviceConfig = cfg.device // {
        # Copies that the service's user may read, whoever owns the files.
        LoadCredential = [
          "cert.pem:${cfg.certificate}"
          "key.pem:${cfg.key}"
          "ca.pem:${cfg.authority}"
        ];
      };
    };
  };

  # The group that may use the TPM's resource manager.
  config.security.tpm2.enable = lib.mkIf cfg.enable true;

  config.assertions = lib.optional cfg.enable {
    assertion = cfg.enrolment.enable -> lib.versionAtLeast pkgs.tpm2-openssl.version oldestProvider;
    message = "seed.tls: tpm2-openssl ${pkgs.tpm2-openssl.version} makes no TLS connection with a key that the TPM holds. Take a nixpkgs with ${oldestProvider} or later, or bring an ordinary key and set seed.tls.enrolment.enable = false.";
  };
}
