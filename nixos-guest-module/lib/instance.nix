# An instance as a whole: from the options' plain values to `seed.meta`, to the agent's file, and to the list
# of what is wrong.
{
  dns,
  expose,
  sizes,
  storage,
  words,
}:
let
  volumes = storage;
  named = key: value: if value.group == null then { } else { ${key} = value; };
in
{
  # What the platform reads, also inside the closure (bootspec extension `farm.loom.seed.v1`). Keys are only
  # ever added: hosts of any age read it.
  meta = instance: {
    inherit (instance)
      name
      system
      size
      storage
      rollout
      acme
      ;
    resources = sizes.${instance.size};
    expose = expose.resolveAll instance.expose;
    dns = { inherit (instance.dns) names; };
    shoot = { inherit (instance.shoot) enable; };
  };

  # /etc/seed/instance.json, as guest-agent/src/config.rs reads it.
  agentFile =
    {
      name,
      storage,
      environment,
      identity,
      ...
    }:
    {
      inherit name;
      storage = builtins.mapAttrs (_: volumes.forAgent) storage;
    }
    // named "identity" identity
    // named "environment" environment;

  # Sentences, each ending with what to do. `users` and `groups` are the names that the system has.
  problems =
    {
      instance,
      users,
      groups,
    }:
    words.optional (!words.isInstanceName instance.name)
      "seed.name: ${words.quoted instance.name} cannot be a host name. Use at most 63 lower-case letters, digits and \"-\", with a letter or digit at both ends."
    ++ expose.problems instance.expose
    ++ volumes.problems {
      inherit users groups;
      entries = instance.storage;
    }
    ++
      words.optional (instance.identity.group != null && !builtins.elem instance.identity.group groups)
        "seed.identity.group: the system has no group ${words.quoted instance.identity.group}. Declare users.groups.${instance.identity.group}, or correct the name."
    ++
      words.optional
        (instance.environment.group != null && !builtins.elem instance.environment.group groups)
        "seed.environment.group: the system has no group ${words.quoted instance.environment.group}. Declare users.groups.${instance.environment.group}, or correct the name."
    ++ dns.problems instance.dns.names;
}
