# Ready-made services for instances that share something: each connects by the instance's own certificate.
{
  imports = [
    ./tls.nix
    ./enrolment.nix
    ./postgresql.nix
    ./postgresql-proxy.nix
    ./zitadel.nix
  ];
}
