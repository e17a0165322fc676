# `seed.dns.names` and the flake's `combine.domains`.
{ words }:
let
  domainKeys = [
    "default"
    "register"
  ];
in
rec {
  problems =
    names:
    map (
      name:
      "seed.dns.names: ${words.quoted name} is no DNS name. Write it in lower case and without a dot at its end, such as \"www.example.com\"."
    ) (builtins.filter (name: !words.isDnsName name) names)
    ++
      map (clash: "seed.dns.names: ${words.quoted clash.key} is there more than once. Keep one of them.")
        (
          words.shared (
            map (name: {
              inherit name;
              key = name;
            }) names
          )
        );

  # Whether a name is a domain or below it.
  isWithin = domain: name: name == domain || words.hasSuffix ".${domain}" name;

  # What may be wrong with `combine.domains`: an attribute set of `{ register ? false; default ? false; }`.
  domainProblems =
    domains:
    let
      names = builtins.attrNames domains;
      defaults = builtins.filter (name: domains.${name}.default or false == true) names;
      one =
        name:
        let
          at = "combine.domains.${words.quoted name}";
          unknown = builtins.filter (key: !builtins.elem key domainKeys) (builtins.attrNames domains.${name});
          noFlags = builtins.filter (
            key: domains.${name} ? ${key} && !builtins.isBool domains.${name}.${key}
          ) domainKeys;
        in
        words.optional (
          !words.isDnsName name
        ) "${at}: this is no domain. Write it in lower case, such as \"example.com\"."
        ++ map (
          key: "${at}.${key}: there is no such setting. Use register and default, or remove it."
        ) unknown
        ++ map (key: "${at}.${key}: this is neither true nor false. Set it to one of them.") noFlags;
    in
    builtins.concatMap one names
    ++
      words.optional (builtins.length defaults > 1)
        "combine.domains: ${words.list defaults} all are the default. Set default = true; on one of them.";

  # Names of instances (`{ web = [ "example.com" ]; }`) that belong to none of the domains.
  strayNames =
    { domains, names }:
    let
      stray =
        instance:
        builtins.filter (
          name: !builtins.any (domain: isWithin domain name) (builtins.attrNames domains)
        ) names.${instance};
      say =
        instance: name:
        "seed.dns.names of ${instance}: ${words.quoted name} belongs to no domain in combine.domains. Declare its domain there, or remove the name.";
    in
    builtins.concatMap (instance: map (say instance) (stray instance)) (builtins.attrNames names);
}
