# An owner's flake as the platform reads it: the `meta` of each instance, and `combine.domains`. Here is what no instance
# can know by itself. The flake is what `outputs` gives, or `builtins.getFlake`.
{ dns, words }:
let
  metasOf = flake: builtins.mapAttrs (_: instance: instance.meta) (flake.seeds or { });
  domainsOf = flake: flake.combine.domains or { };
in
rec {
  # Sentences, each ending with what to do.
  problems =
    flake:
    let
      metas = metasOf flake;
      domains = domainsOf flake;
      names = builtins.attrNames metas;
      wrongDomains = dns.domainProblems domains;
    in
    words.optional (names == [ ])
      "the flake has no instances. Declare one: seeds.web = seed.lib.mkSeed { name = \"web\"; module = ./web.nix; };"
    ++ map (
      name:
      "seeds.${name}: the instance calls itself ${
        words.quoted metas.${name}.name
      }. Give mkSeed the name that it has in seeds, or rename it there."
    ) (builtins.filter (name: metas.${name}.name != name) names)
    ++ wrongDomains
    # Names are compared with domains that are some.
    ++ (
      if wrongDomains == [ ] then
        dns.nameProblems {
          inherit domains;
          names = builtins.mapAttrs (_: meta: meta.dns.names) metas;
        }
      else
        [ ]
    );

  # `{ instances; domains; }` as data: every setting filled in, every name in full. What is wrong is an error.
  view =
    flake:
    let
      wrong = problems flake;
      domains = domainsOf flake;
    in
    if wrong != [ ] then
      throw "the flake's instances are not right:\n${words.join "\n" (map (text: "- ${text}") wrong)}"
    else
      {
        instances = builtins.mapAttrs (
          _: meta: meta // { dns.names = map (dns.inFull domains) meta.dns.names; }
        ) (metasOf flake);
        domains = dns.domainsFilled domains;
      };
}
