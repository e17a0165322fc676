# An instance as a whole: from the options' plain values to `seed.meta`, to the agent's file, and to the list
# of what is wrong.
{
  dns,
  expose,
  sizes,
  storage,
  words,
}:
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
  agentFile = meta: {
    inherit (meta) name;
    storage = builtins.mapAttrs (_: storage.forAgent) meta.storage;
  };

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
    ++ storage.problems {
      inherit users groups;
      entries = instance.storage;
    }
    ++ dns.problems instance.dns.names;
}
