# `seed.dns.names` and the flake's `combine.domains`. A name with dots is written in full; one without is in the domain
# that the flake calls its default.
{ words }:
let
  # The settings of a domain, with what they are when nothing is said.
  domainDefaults = {
    default = false;
    register = false;
  };
  domainKeys = builtins.attrNames domainDefaults;
  defaultsOf =
    domains:
    builtins.filter (name: domains.${name}.default or false == true) (builtins.attrNames domains);
in
rec {
  problems =
    names:
    map (
      name:
      "seed.dns.names: ${words.quoted name} is no DNS name. Write it in lower case and without a dot at its end, such as \"www.example.com\"."
    ) (builtins.filter (name: !words.isDnsName name && !words.isInstanceName name) names)
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

  isInFull = words.matches ".*\\..*";

  # The name in full, or as it is where no domain is the default.
  inFull =
    domains: name:
    let
      defaults = defaultsOf domains;
    in
    if isInFull name || defaults == [ ] then name else "${name}.${builtins.head defaults}";

  # Every setting of every domain.
  domainsFilled = builtins.mapAttrs (_: domain: domainDefaults // domain);

  # What may be wrong with `combine.domains`: an attribute set of `{ register ? false; default ? false; }`.
  domainProblems =
    domains:
    let
      names = builtins.attrNames domains;
      sets = builtins.filter (name: builtins.isAttrs domains.${name}) names;
      defaults = builtins.filter (name: domains.${name}.default or false == true) sets;
      at = name: "combine.domains.${words.quoted name}";
      settings =
        name:
        let
          unknown = builtins.filter (key: !builtins.elem key domainKeys) (builtins.attrNames domains.${name});
          noFlags = builtins.filter (
            key: domains.${name} ? ${key} && !builtins.isBool domains.${name}.${key}
          ) domainKeys;
        in
        map (
          key: "${at name}.${key}: there is no such setting. Use register and default, or remove it."
        ) unknown
        ++ map (key: "${at name}.${key}: this is neither true nor false. Set it to one of them.") noFlags;
    in
    if !builtins.isAttrs domains then
      [ "combine.domains: this is no set of domains. Write combine.domains.\"example.com\" = { };" ]
    else
      map (name: "${at name}: this is no domain. Write it in lower case, such as \"example.com\".") (
        builtins.filter (name: !words.isDnsName name) names
      )
      ++ map (name: "${at name}: this is no set of settings. Write { } or { register = true; }.") (
        builtins.filter (name: !builtins.elem name sets) names
      )
      ++ builtins.concatMap settings sets
      ++
        words.optional (builtins.length defaults > 1)
          "combine.domains: ${words.list defaults} all are the default. Set default = true; on one of them.";

  # What instances' names (`{ web = [ "example.com" ]; }`) and the domains say of each other.
  nameProblems =
    { domains, names }:
    let
      instances = builtins.attrNames names;
      isStray = name: !builtins.any (domain: isWithin domain name) (builtins.attrNames domains);
      say =
        instance: name:
        "seed.dns.names of ${instance}: ${words.quoted name} "
        + (
          if isInFull name then
            "belongs to no domain in combine.domains. Declare its domain there, or remove the name."
          else
            "is not written in full, and no domain in combine.domains is the default. Set default = true; on one, or write the name in full."
        );
      claims = builtins.concatMap (
        instance:
        map (name: {
          name = instance;
          key = inFull domains name;
        }) names.${instance}
      ) instances;
    in
    builtins.concatMap (
      instance:
      map (say instance) (builtins.filter (name: isStray (inFull domains name)) names.${instance})
    ) instances
    ++ map (
      clash:
      "seed.dns.names: ${words.quoted clash.key} is wanted more than once, by ${words.list clash.names}. Let one instance have it."
    ) (words.shared claims);
}
