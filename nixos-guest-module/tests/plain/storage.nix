# Tests of ../../lib/storage.nix.
let
  inherit (import ../../lib) storage;
  entry =
    name: values:
    {
      size = "1Gi";
      mountPoint = storage.defaultMountPoint name;
      user = null;
      group = null;
      mode = null;
    }
    // values;
  problems =
    entries:
    storage.problems {
      users = [
        "root"
        "app"
      ];
      groups = [ "app" ];
      entries = builtins.mapAttrs entry entries;
    };
in
{
  "ordinary volumes are all right" = {
    got = problems {
      data = { };
      db = {
        user = "app";
        group = "app";
        mode = "0750";
      };
      raw = {
        user = "1000";
        group = "1000";
      };
    };
    want = [ ];
  };
  "a bad size says how to write one" = {
    got = problems { data.size = "1 GB"; };
    want = [
      "seed.storage.data.size: \"1 GB\" is no size. In seed.storage.data.size write a whole number with a unit, such as \"500Mi\", \"1Gi\" or \"2Ti\"."
    ];
  };
  "a mount point of the system is refused with a better place" = {
    got = problems { data.mountPoint = "/etc/data"; };
    want = [
      "seed.storage.data.mountPoint: a volume cannot be mounted at \"/etc/data\": the place belongs to the system. Choose a folder such as \"/seed/storage/data\" or below /var/lib, /srv or /home."
    ];
  };
  "a user and a group that nobody declares are named" = {
    got = problems {
      data = {
        user = "postgres";
        group = "pg";
      };
    };
    want = [
      "seed.storage.data.user: the system has no user \"postgres\". Declare users.users.postgres, enable the service that brings it, or correct the name."
      "seed.storage.data.group: the system has no group \"pg\". Declare users.groups.pg, enable the service that brings it, or correct the name."
    ];
  };
  "a mode in letters is refused" = {
    got = problems { data.mode = "u=rwx"; };
    want = [
      "seed.storage.data.mode: \"u=rwx\" is no mode. Write three or four octal digits, such as \"0750\"."
    ];
  };
  "a name that no device can have is refused" = {
    got = builtins.length (problems {
      "a b".mountPoint = "/srv/a";
    });
    want = 1;
  };
  "two volumes in one place are named, however the place is written" = {
    got = problems {
      a.mountPoint = "/srv/x";
      b.mountPoint = "/srv//x/";
    };
    want = [
      "seed.storage: a, b all want the mount point /srv/x. Give each a mountPoint of its own, or make one volume of them."
    ];
  };
  "the agent gets what was said, and no size" = {
    got = storage.forAgent (entry "data" { user = "app"; });
    want = {
      mountPoint = "/seed/storage/data";
      user = "app";
    };
  };
}
