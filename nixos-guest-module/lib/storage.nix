# `seed.storage`: where a volume goes, and what may be wrong with it. An entry is
# `{ size; mountPoint; user; group; mode; }`; the last three are null when the owner left them out. The rules
# for mount points are the agent's (guest-agent/src/storage/mod.rs); a test of `seed-agent` compares the two.
{ quantity, words }:
let
  # Nothing is mounted on or below these.
  systemTrees = [
    "/proc"
    "/sys"
    "/dev"
    "/run"
    "/boot"
    "/nix"
    "/usr"
    "/bin"
    "/sbin"
    "/lib"
    "/lib64"
    "/etc"
    "/seed/tpm"
  ];
  # Nothing is mounted on these; below them it may be.
  systemDirectories = [
    "/"
    "/seed"
    "/var"
  ];
  parts =
    path: builtins.filter (part: builtins.isString part && part != "") (builtins.split "/" path);
  # PATH_MAX of linux/limits.h less the terminating zero.
  maxPathBytes = 4095;
in
rec {
  defaultMountPoint = name: "/seed/storage/${name}";

  # Without doubled and trailing slashes.
  clean = path: "/" + builtins.concatStringsSep "/" (parts path);

  # Why a volume cannot be mounted there, or null.
  mountPointProblem =
    path:
    let
      place = clean path;
      below = tree: place == tree || words.hasPrefix "${tree}/" place;
      dots = builtins.any (part: part == "." || part == "..") (parts path);
    in
    if !words.hasPrefix "/" path then
      "the path is not absolute"
    else if builtins.stringLength path > maxPathBytes || words.matches ".*[[:cntrl:]].*" path then
      "the path is too long or has control characters"
    else if dots then
      "the path has \".\" or \"..\" in it"
    else if builtins.any below systemTrees || builtins.elem place systemDirectories then
      "the place belongs to the system"
    else
      null;

  # What the agent reads from /etc/seed/instance.json: no sizes, and only what the owner has set.
  forAgent =
    entry:
    builtins.removeAttrs entry (
      [ "size" ]
      ++ builtins.filter (key: entry.${key} == null) [
        "user"
        "group"
        "mode"
      ]
    );

  # `users` and `groups` are the names that the system has.
  problems =
    {
      users,
      groups,
      entries,
    }:
    let
      names = builtins.attrNames entries;
      known = all: name: name == null || words.isNumber name || builtins.elem name all;
      one =
        name:
        let
          at = "seed.storage.${name}";
          entry = entries.${name};
          place = mountPointProblem entry.mountPoint;
        in
        words.optional (!words.isVolumeName name)
          "${at}: a volume's name has letters, digits, \".\", \"_\" and \"-\", begins with a letter or digit, and has at most 64 characters. Rename it."
        ++ words.optional (
          !quantity.isSize entry.size
        ) "${at}.size: ${words.quoted entry.size} is no size. In ${at}.size ${quantity.remedy}."
        ++
          words.optional (place != null)
            "${at}.mountPoint: a volume cannot be mounted at ${words.quoted entry.mountPoint}: ${place}. Choose a folder such as ${words.quoted (defaultMountPoint name)} or below /var/lib, /srv or /home."
        ++
          words.optional (!known users entry.user)
            "${at}.user: the system has no user ${words.quoted entry.user}. Declare users.users.${entry.user}, enable the service that brings it, or correct the name."
        ++
          words.optional (!known groups entry.group)
            "${at}.group: the system has no group ${words.quoted entry.group}. Declare users.groups.${entry.group}, enable the service that brings it, or correct the name."
        ++
          words.optional (entry.mode != null && !words.isMode entry.mode)
            "${at}.mode: ${words.quoted entry.mode} is no mode. Write three or four octal digits, such as \"0750\".";
      places = words.shared (
        map (name: {
          inherit name;
          key = clean entries.${name}.mountPoint;
        }) names
      );
      twice =
        clash:
        "seed.storage: ${words.list clash.names} all want the mount point ${clash.key}. Give each a mountPoint of its own, or make one volume of them.";
    in
    builtins.concatMap one names ++ map twice places;
}
