# Every template's flake, instance by instance; and what mkOutputs makes of them.
{
  lib,
  callFlake,
  evaluates,
  mkOutputs,
  mkSeed,
  self,
  view,
  ...
}:
let
  outputs = lib.mapAttrs (_: template: callFlake (template.path + "/flake.nix")) self.templates;
  # The secrets are files beside the modules, and not the same one.
  system =
    instance:
    (instance.extend { sops.defaultSopsFile = lib.mkForce ../reference/modules/secrets/api.yaml; })
    .toplevel.drvPath;
  # A template and the reference's example are the same system, though the template is formatted.
  same = template: name: example: {
    got = system outputs.${template}.seeds.${name};
    want = system (mkSeed {
      inherit name;
      module = ../reference/modules + "/${example}.nix";
    });
  };
in
{
  template-examples = {
    "instance is the static site" = same "instance" "web" "static";
    "instance-caddy is Caddy with a domain" = same "instance-caddy" "web" "caddy";
    "instance-api is the app with secrets" = same "instance-api" "api" "api";
    "multi is the front end" = same "multi" "web" "multi-web";
    "and the back end" = same "multi" "api" "multi-api";
  };
  outputs =
    let
      all = mkOutputs { inherit (outputs.multi) seeds; };
    in
    {
      "under Nix's own names" = {
        got = {
          configurations = lib.attrNames all.nixosConfigurations;
          packages = lib.mapAttrs (_: lib.attrNames) all.packages;
          checks = lib.mapAttrs (_: lib.attrNames) all.checks;
        };
        want = {
          configurations = [
            "api"
            "web"
          ];
          packages.x86_64-linux = [
            "api"
            "api-image"
            "api-toplevel"
            "web"
            "web-image"
            "web-toplevel"
          ];
          checks.x86_64-linux = [
            "api"
            "web"
          ];
        };
      };
      "every template is a flake that the platform can read" = {
        got = lib.mapAttrs (_: flake: lib.attrNames (view flake).instances) outputs;
        want = {
          instance = [ "web" ];
          instance-api = [ "api" ];
          instance-caddy = [ "web" ];
          multi = [
            "api"
            "web"
          ];
        };
      };
      "DNS names belong to them" = {
        got = lib.attrNames (mkOutputs { inherit (outputs.instance-caddy) seeds combine; }).seeds;
        want = [ "web" ];
      };
    };
}
// lib.mapAttrs' (
  name: flake:
  lib.nameValuePair "template-${name}" (
    lib.mapAttrs (_: it: {
      got = evaluates it;
      want = true;
    }) flake.seeds
  )
) outputs
