# `nix flake init -t`: the examples of the user reference, ready to be changed.
let
  welcome = ''
    Check it with `nix eval .#seeds.<name>.meta --json`, boot it with `nix run .#seeds.<name>.runner`, and put
    your SSH public key into `.authorized_keys` before you push.
  '';
in
{
  instance = {
    path = ./instance;
    description = "A static site with nginx";
    welcomeText = welcome;
  };
  instance-caddy = {
    path = ./instance-caddy;
    description = "Caddy with certificates and a domain of its own, in front of an application";
    welcomeText = welcome;
  };
  instance-api = {
    path = ./instance-api;
    description = "An API server with a secret from sops";
    welcomeText = ''
      ${welcome}
      The secret comes second: boot the instance once, ask for its key (`seed keys api`), and write
      `secrets/api.yaml` with `sops --age <key> secrets/api.yaml`.
    '';
  };
  multi = {
    path = ./multi;
    description = "A web front end and an API behind it, each in a VM of its own";
    welcomeText = welcome;
  };
}
