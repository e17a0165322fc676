# The flake's outputs, called with stand-ins for nixpkgs and sops-nix: that every input is declared, every output
# is there, and every path that an output names exists.
let
  flake = import ../../../flake.nix;
  lock = builtins.fromJSON (builtins.readFile ../../../flake.lock);
  inherit (builtins)
    attrNames
    functionArgs
    listToAttrs
    mapAttrs
    pathExists
    ;
  genAttrs =
    names: f:
    listToAttrs (
      map (name: {
        inherit name;
        value = f name;
      }) names
    );
  lib = {
    inherit genAttrs mapAttrs;
    mapAttrs' = f: set: listToAttrs (map (name: f name set.${name}) (attrNames set));
    nameValuePair = name: value: { inherit name value; };
    filterAttrs =
      keep: set:
      genAttrs (builtins.filter (name: keep name set.${name}) (attrNames set)) (name: set.${name});
    getExe = package: package.meta.mainProgram;
    optionalAttrs = condition: set: if condition then set else { };
  };
  pkgs = system: {
    inherit lib;
    stdenv.hostPlatform = {
      inherit system;
      isx86_64 = system == "x86_64-linux";
    };
    # Packages are files that exist, and programs.
    callPackage = path: _: {
      inherit path;
      meta.mainProgram = "program";
      meta.description = "A program";
      version = "0";
    };
    runCommand = name: _: _: {
      inherit name;
      meta = { };
    };
    writeText = name: _: {
      inherit name;
      meta = { };
    };
    writeShellApplication = program: {
      inherit (program) name;
      meta.mainProgram = program.name;
      meta.description = "A program";
    };
    testers.runNixOSTest = test: test;
  };
  self = flake.outputs inputs;
  inputs = {
    inherit self;
    nixpkgs = {
      inherit lib;
      legacyPackages = genAttrs [
        "x86_64-linux"
        "aarch64-linux"
      ] pkgs;
    };
    sops-nix.nixosModules.sops = { };
  };
  system = "x86_64-linux";
in
{
  "outputs asks for what is declared" = {
    got = attrNames (functionArgs flake.outputs);
    want = attrNames (flake.inputs // { self = { }; });
  };
  "the lock has every input, from where the flake says, with its hash" =
    let
      origin =
        name:
        let
          inherit (lock.nodes.${name}) original;
        in
        "${original.type}:${original.owner}/${original.repo}"
        + (if original ? ref then "/${original.ref}" else "");
      whole =
        name:
        let
          inherit (lock.nodes.${name}) locked;
        in
        builtins.match "sha256-[A-Za-z0-9+/]{43}=" locked.narHash != null
        && builtins.match "[0-9a-f]{40}" locked.rev != null;
      names = attrNames flake.inputs;
    in
    {
      got = map (name: {
        inherit name;
        from = origin lock.nodes.root.inputs.${name};
        pinned = whole lock.nodes.root.inputs.${name};
      }) names;
      want = map (name: {
        inherit name;
        from = flake.inputs.${name}.url;
        pinned = true;
      }) names;
    };
  "every output is there" = {
    got = attrNames self;
    want = [
      "apps"
      "checks"
      "current"
      "devShells"
      "formatter"
      "lib"
      "nixosModules"
      "overlays"
      "packages"
      "templates"
    ];
  };
  "lib has what other flakes call" = {
    got = attrNames self.lib;
    want = [
      "mkOutputs"
      "mkSeed"
      "view"
    ];
  };
  "modules exist" = {
    got = mapAttrs (_: pathExists) self.nixosModules;
    want = {
      default = true;
      guest = true;
      host = true;
    };
  };
  "each template is a flake that says what it is" = {
    got = mapAttrs (
      _: template: pathExists (template.path + "/flake.nix") && template.description != ""
    ) self.templates;
    want = {
      instance = true;
      instance-api = true;
      instance-caddy = true;
      multi = true;
    };
  };
  "each program's package.nix exists" = {
    got = map (name: pathExists self.packages.${system}.${name}.path) [
      "age-plugin-tpm"
      "seed-agent"
      "seed-shell"
      "seed-shim"
    ];
    want = [
      true
      true
      true
      true
    ];
  };
  "each program is an app, and what another architecture lacks is the shim" =
    let
      programs = system: attrNames self.apps.${system};
    in
    {
      got = [
        (programs "x86_64-linux")
        (builtins.filter (name: !self.apps.aarch64-linux ? ${name}) (programs "x86_64-linux"))
        self.apps.${system}.seed-plant.program
      ];
      want = [
        [
          "age-plugin-tpm"
          "check"
          "closure"
          "seed-agent"
          "seed-identity"
          "seed-plant"
          "seed-shell"
          "seed-shim"
          "seed-sign"
        ]
        [ "seed-shim" ]
        "seed-plant"
      ];
    };
  "each package has a check, and each program says its version" = {
    got = builtins.filter (name: !(self.checks.${system} ? ${name})) (
      map (name: "package-${name}") (attrNames self.packages.${system})
      ++ [
        "version-age-plugin-tpm"
        "version-seed-agent"
        "version-seed-plant"
        "version-seed-shell"
        "version-seed-shim"
        "vm-guest"
      ]
    );
    want = [ ];
  };
  "mkSeed says what it takes" = {
    got = functionArgs self.lib.mkSeed;
    want = {
      name = false;
      module = true;
      modules = true;
      nixpkgs = true;
      specialArgs = true;
      system = true;
    };
  };
}
